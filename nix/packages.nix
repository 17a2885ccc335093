# The programs, a derivation each, from one workspace.
{
  lib,
  pkgs,
  sources,
}: let
  workspace = (lib.importTOML ../Cargo.toml).workspace.package;

  program = {
    crate,
    binary ? crate,
    description,
    attributes ? {},
  }:
    pkgs.rustPlatform.buildRustPackage (
      {
        pname = crate;
        inherit (workspace) version;
        src = sources.rust;
        cargoLock.lockFile = ../Cargo.lock;
        cargoBuildFlags = ["--package" crate];
        # The tests of all crates are one check of the flake: see checks.nix.
        doCheck = false;
        nativeBuildInputs = [pkgs.pkg-config pkgs.cmake];
        # cmake is there for aws-lc's build script, not to configure this tree.
        dontUseCmakeConfigure = true;
        meta = {
          inherit description;
          license = with lib.licenses; [asl20 mit];
          platforms = lib.platforms.linux;
          mainProgram = binary;
        };
      }
      // attributes
    );

  # Puts the files of one part of dist/ where NixOS looks for them, with the programs' paths in the store.
  withDist = part: drv:
    drv.overrideAttrs (old: {
      postInstall =
        (old.postInstall or "")
        + ''
          for folder in systemd sysusers.d tmpfiles.d sysctl.d modules-load.d; do
            if [ -d ${sources.dist}/dist/${part}/usr/lib/$folder ]; then
              mkdir -p $out/lib
              cp -r --no-preserve=mode ${sources.dist}/dist/${part}/usr/lib/$folder $out/lib/
            fi
          done
          find $out/lib -name '*.service' -exec sed -i "s|/usr/bin/|$out/bin/|g" {} +
        '';
    });
in rec {
  cairn = program {
    crate = "cairn";
    description = "The operator's and the technician's tool";
    attributes = {
      nativeBuildInputs = [pkgs.pkg-config pkgs.cmake pkgs.installShellFiles];
      postInstall = ''
        $out/bin/cairn man man
        installManPage man/*.1
        for shell in bash zsh fish; do
          installShellCompletion --cmd cairn --$shell <($out/bin/cairn completions $shell)
        done
      '';
    };
  };

  cairnd = withDist "node" (program {
    crate = "cairnd";
    description = "The node agent: pulls, verifies, plans, acts, observes, reports";
  });

  cairn-hub = withDist "hub" (program {
    crate = "cairn-hub";
    description = "The hub of a fleet";
  });

  cairn-oci = program {
    crate = "cairn-oci";
    description = "Starts one container and gets out of the way";
    attributes.buildInputs = [pkgs.libseccomp];
  };

  cairn-wasm = program {
    crate = "cairn-wasm";
    description = "Runs one WebAssembly component or module";
  };

  cairn-image = program {
    crate = "cairn-image";
    description = "Makes bootable A/B disk images from a lock of packages";
  };

  cairn-init = program {
    crate = "cairn-init";
    description = "The initrd's only program";
  };

  default = cairn;
}
