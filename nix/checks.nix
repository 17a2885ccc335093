# What `nix flake check` builds: every program, all tests of the workspace, what the modules must refuse, and the scenarios on
# a hub and two nodes.
{
  lib,
  pkgs,
  self,
  system,
  programs,
}: let
  # The failed assertions of a NixOS system with these modules.
  complaints = modules: let
    evaluated = lib.nixosSystem {
      modules =
        [
          {nixpkgs.hostPlatform = system;}
          {system.stateVersion = "26.05";}
        ]
        ++ modules;
    };
  in
    map (assertion: assertion.message) (lib.filter (assertion: !assertion.assertion) evaluated.config.assertions);

  refusals = base: cases:
    lib.mapAttrs'
    (name: case: {
      name = "refuses-${name}";
      value = pkgs.runCommand "refuses-${name}" {said = complaints [base case.module];} (
        if lib.any (lib.hasInfix case.says) (complaints [base case.module])
        then "touch $out"
        else ''echo "not refused; said: $said" >&2; exit 1''
      );
    })
    cases;

  node = {
    imports = [self.nixosModules.node];
    environment.systemPackages = [pkgs.curl];
    services.cairn.node = {
      enable = true;
      hub = {
        url = "https://hub:8443";
        caFile = "/tmp/shared/ca.pem";
        enrollTokenFile = "/tmp/shared/token";
      };
    };
  };

  step = {
    on,
    run,
    fails ? false,
    says ? "",
  }: let
    verb =
      if fails
      then "fail"
      else "wait_until_succeeds";
  in ''
    said = ${on}.${verb}(${builtins.toJSON "${run} 2>&1"})
    assert ${builtins.toJSON says} in said, said
  '';

  scenario = name: steps:
    pkgs.testers.runNixOSTest {
      name = "cairn-${name}";
      nodes = {
        hub = {
          imports = [self.nixosModules.hub];
          services.cairn.hub = {
            enable = true;
            names = ["hub"];
            address = "0.0.0.0";
            openFirewall = true;
          };
        };
        node1 = node;
        node2 = node;
      };
      testScript =
        ''
          start_all()
          hub.wait_for_unit("cairn-hub.service")
        ''
        + lib.concatMapStrings step steps;
    };
in
  lib.removeAttrs programs ["inImage"]
  // refusals self.nixosModules.default (import ../modules/tests/refused.nix)
  // refusals self.nixosModules.appliance (import ../modules/tests/refused-appliance.nix)
  // lib.mapAttrs scenario (import ./scenarios.nix)
  // {
    tests = programs.cairn.overrideAttrs (old: {
      pname = "cairn-tests";
      doCheck = true;
      cargoBuildFlags = ["--workspace"];
      # The scenarios of tests-vm boot an image under QEMU: `./x test vm` runs them.
      cargoTestFlags = ["--workspace" "--exclude" "cairn-tests-vm"];
      buildInputs = (old.buildInputs or []) ++ [pkgs.libseccomp];
      postInstall = "";
    });
  }
