# What `nix flake check` builds: every package, all tests of the workspace, and the modules' assertions.
{
  lib,
  pkgs,
  self,
}: let
  packages = self.packages.${pkgs.stdenv.hostPlatform.system};

  # The failed assertions of a NixOS system with these modules.
  complaints = modules: let
    system = lib.nixosSystem {
      modules =
        [
          {nixpkgs.hostPlatform = pkgs.stdenv.hostPlatform.system;}
          {system.stateVersion = "26.05";}
          self.nixosModules.default
        ]
        ++ modules;
    };
  in
    map (assertion: assertion.message) (lib.filter (assertion: !assertion.assertion) system.config.assertions);

  # Each: a configuration, and a part of the complaint that it must cause.
  refused = {
    hub-without-tls = {
      module.services.cairn.node = {
        enable = true;
        hub.url = "http://hub.example";
      };
      says = "https://";
    };
    token-in-the-store = {
      module.services.cairn.node = {
        enable = true;
        hub = {
          url = "https://hub.example";
          caFile = ./checks.nix;
          enrollTokenFile = "${./checks.nix}";
        };
      };
      says = "world-readable";
    };
    hub-without-a-name = {
      module.services.cairn.hub.enable = true;
      says = "services.cairn.hub.names";
    };
  };

  assertionChecks =
    lib.mapAttrs'
    (name: case: {
      name = "refuses-${name}";
      value = pkgs.runCommand "refuses-${name}" {said = complaints [case.module];} (
        if lib.any (lib.hasInfix case.says) (complaints [case.module])
        then "touch $out"
        else ''echo "not refused; said: $said" >&2; exit 1''
      );
    })
    refused;
in
  lib.removeAttrs packages ["default"]
  // assertionChecks
  // {
    tests = packages.cairn.overrideAttrs (old: {
      pname = "cairn-tests";
      doCheck = true;
      cargoBuildFlags = ["--workspace"];
      # The scenarios boot an image under QEMU: `./x test vm` runs them.
      cargoTestFlags = ["--workspace" "--exclude" "cairn-tests-vm"];
      buildInputs = (old.buildInputs or []) ++ [pkgs.libseccomp];
      postInstall = "";
    });
  }
