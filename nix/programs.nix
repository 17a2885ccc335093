# The programs from Cargo.lock, by nixpkgs' rustPlatform: a derivation each, and all in one folder for Debian's loader.
{
  lib,
  pkgs,
}: let
  workspace = (lib.importTOML ../Cargo.toml).workspace.package;
  sources = import ./sources.nix {inherit lib;};
  inherit (pkgs.stdenv.hostPlatform.rust) rustcTarget;

  program = {
    name,
    description,
    attributes ? {},
  }:
    pkgs.rustPlatform.buildRustPackage (
      {
        pname = name;
        inherit (workspace) version;
        src = sources.rust;
        cargoLock.lockFile = ../Cargo.lock;
        cargoBuildFlags = ["--package" name];
        # The tests of all crates are one check of the flake: see checks.nix.
        doCheck = false;
        nativeBuildInputs = [pkgs.pkg-config pkgs.cmake];
        # cmake is there for aws-lc's build script, not to configure this tree.
        dontUseCmakeConfigure = true;
        meta = {
          inherit description;
          license = with lib.licenses; [asl20 mit];
          platforms = lib.platforms.linux;
          mainProgram = name;
        };
      }
      // attributes
    );

  # What has no dynamic loader where it runs.
  static = {
    buildInputs = [pkgs.glibc.static];
    "CARGO_TARGET_${lib.toUpper (lib.replaceStrings ["-"] ["_"] rustcTarget)}_RUSTFLAGS" = "-C target-feature=+crt-static";
  };

  # Where NixOS has what the units start, and what the agent starts itself.
  storePaths = {
    "/usr/bin/mount" = "${pkgs.util-linux}/bin/mount";
    "/usr/bin/umount" = "${pkgs.util-linux}/bin/umount";
    "/usr/sbin/blockdev" = "${pkgs.util-linux}/bin/blockdev";
    "/usr/bin/rmdir" = "${pkgs.coreutils}/bin/rmdir";
    "/usr/sbin/modprobe" = "${pkgs.kmod}/bin/modprobe";
  };
  mounters = ["/usr/bin/mount" "/usr/bin/umount" "/usr/sbin/blockdev"];

  # Puts the files of parts of dist/ where NixOS looks for them, with the programs' paths in the store. A path that was
  # forgotten stops the build. Which units are started is up to the modules; the console's is the appliance's.
  withDist = parts: drv:
    drv.overrideAttrs (old: {
      postInstall =
        (old.postInstall or "")
        + ''
          for part in ${lib.concatStringsSep " " parts}; do
            for folder in systemd/system sysusers.d tmpfiles.d sysctl.d udev/rules.d; do
              if [ -d ${sources.dist}/dist/$part/usr/lib/$folder ]; then
                mkdir -p $out/lib/$folder
                cp -r --no-preserve=mode ${sources.dist}/dist/$part/usr/lib/$folder/. $out/lib/$folder/
              fi
            done
            if [ -d ${sources.dist}/dist/$part/usr/share/dbus-1 ]; then
              mkdir -p $out/share
              cp -r --no-preserve=mode ${sources.dist}/dist/$part/usr/share/dbus-1 $out/share/
            fi
          done
          find $out/lib -name '*.service' -exec sed -i -e "s|/usr/bin/cairn|$out/bin/cairn|g" \
            ${lib.concatStringsSep " " (lib.mapAttrsToList (from: to: "-e 's|${from} |${to} |g'") storePaths)} {} +
          if grep -rnE '=[-+!:@]*/(usr|s?bin)/' $out/lib/systemd; then
            echo "a unit starts a program that NixOS does not have there; name it in nix/programs.nix" >&2
            exit 1
          fi
        '';
    });

  agent = attributes:
    program {
      inherit attributes;
      name = "cairnd";
      description = "The node agent: pulls, verifies, plans, acts, observes, reports";
    };

  programs = {
    cairn = program {
      name = "cairn";
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
    # The agent has sticks mounted by programs at paths that it knows.
    cairnd = withDist ["node" "appliance"] (agent {
      postPatch = ''
        substituteInPlace daemon/src/media/mount.rs ${lib.concatMapStringsSep " " (path: "--replace-fail '\"${path}\"' '\"${storePaths.${path}}\"'") mounters}
      '';
    });
    cairn-hub = withDist ["hub"] (program {
      name = "cairn-hub";
      description = "The hub of a fleet";
    });
    cairn-oci = program {
      name = "cairn-oci";
      description = "Starts one container and gets out of the way";
      attributes.buildInputs = [pkgs.libseccomp];
    };
    cairn-wasm = program {
      name = "cairn-wasm";
      description = "Runs one WebAssembly component or module";
    };
    cairn-image = program {
      name = "cairn-image";
      description = "Makes bootable A/B disk images and OS releases from a lock of packages, and flashes them";
      attributes = static;
    };
    cairn-init = program {
      name = "cairn-init";
      description = "The initrd's only program";
      attributes = static;
    };
  };
in
  programs
  // {
    # On the Debian base they are started by Debian's loader, and find its libraries: nothing of the store may be left.
    inImage =
      pkgs.runCommand "cairn-programs-for-debian" {
        nativeBuildInputs = [pkgs.patchelf pkgs.removeReferencesTo pkgs.binutils];
        disallowedReferences = [pkgs.glibc pkgs.libseccomp.lib];
        meta.description = "The programs as they go into an image of Debian's packages";
      } ''
        mkdir $out
        for program in ${lib.concatMapStringsSep " " lib.getExe (with programs; [(agent {}) cairn cairn-oci cairn-wasm])}; do
          copy=$out/$(basename $program)
          strip -o $copy $program
          patchelf --set-interpreter /lib64/ld-linux-x86-64.so.2 --remove-rpath $copy
          remove-references-to -t ${pkgs.glibc} -t ${pkgs.libseccomp.lib} $copy
        done
        strip -o $out/cairn-init ${programs.cairn-init}/bin/cairn-init
      '';
  }
