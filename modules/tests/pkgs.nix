# Stands for nixpkgs' packages: whatever is asked for is something that a type takes for a derivation. Scripts and settings
# are kept, so that a golden shows them.
{
  lib,
  system,
}: let
  fake = name: extra:
    {
      type = "derivation";
      inherit name;
      outPath = "${builtins.storeDir}/00000000000000000000000000000000-${name}";
      drvPath = "${builtins.storeDir}/00000000000000000000000000000000-${name}.drv";
      meta.mainProgram = name;
    }
    // extra;
  kernel = version: {
    kernel = fake "linux-${version}" {
      inherit version;
      kernelAtLeast = lib.versionAtLeast version;
    };
  };

  # What a package of nixpkgs has besides, as far as the flake uses it.
  full = name: attributes: let
    self =
      fake name attributes
      // {
        overrideAttrs = change: full name (self // change self);
        lib = fake "${name}-lib" {};
        static = fake "${name}-static" {};
        fd = fake "${name}-fd" {};
      };
  in
    self;

  used = ["OVMF" "binutils" "clippy" "cargo" "cargo-deny" "cmake" "coreutils" "curl" "glibc" "gnugrep" "installShellFiles" "libseccomp" "mtools" "patchelf" "pkg-config" "qemu" "removeReferencesTo" "rust-analyzer" "rustc" "rustfmt" "skopeo"];
in {
  inherit fake;
  pkgs =
    lib.genAttrs ["netavark" "aardvark-dns" "nftables" "kmod" "systemd" "util-linux"] (name: fake name {})
    // lib.genAttrs used (name: full name {})
    // {
      stdenv.hostPlatform = {
        inherit system;
        rust.rustcTarget = "${lib.removeSuffix "-linux" system}-unknown-linux-gnu";
      };
      rustPlatform.buildRustPackage = attributes: full attributes.pname attributes;
      mkShell = full "shell";
      testers.runNixOSTest = attributes: full attributes.name attributes;
      writeShellScript = name: script: full name {inherit script;};
      linuxPackages = kernel "6.18.49";
      linuxPackages_5_15 = kernel "5.15.190";
      formats.toml = _: {
        type = lib.types.attrsOf lib.types.anything;
        generate = name: _settings: fake name {};
      };
      writeText = name: _text: fake name {};
      runCommand = name: attributes: script: fake name (attributes // {inherit script;});
      fetchurl = {name, ...}: fake name {};
      linkFarm = name: _entries: fake name {};
      closureInfo = fake "closure-info";
    };
}
