# Stands for nixpkgs' packages: whatever is asked for is something that a type takes for a derivation. Scripts and settings
# are kept, so that a golden shows them.
{lib}: let
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
in {
  inherit fake;
  pkgs =
    lib.genAttrs ["netavark" "aardvark-dns" "nftables" "kmod" "systemd"] (name: fake name {})
    // {
      stdenv.hostPlatform.system = "x86_64-linux";
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
