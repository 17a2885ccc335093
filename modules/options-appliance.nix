# The options of cairn.appliance.
{lib, ...}: let
  inherit (lib) mkOption types;
  workspace = (lib.importTOML ../Cargo.toml).workspace.package;
in {
  options.cairn.appliance = {
    version = mkOption {
      type = types.str;
      default = workspace.version;
      example = "1.4.0";
      description = "Version of the system: a node takes only what is newer than what it runs.";
    };

    compatible = mkOption {
      type = types.str;
      default = "cairn-nixos-amd64";
      example = "acme-box-2";
      description = "Which machines it is for: a node takes only releases with the same string.";
    };

    patchFrom = mkOption {
      type = types.listOf types.path;
      default = [];
      description = "Earlier images or releases: `release-nixos` brings a patch from each.";
    };

    healthCommand = mkOption {
      type = types.listOf types.str;
      default = [];
      example = ["/run/current-system/sw/bin/systemctl" "is-active" "my-app"];
      description = "Command that must end with 0 on a node before a release is kept there, as an argument list.";
    };

    debian = mkOption {
      type = types.nullOr types.path;
      default = null;
      description = ''
        Folder with `mirror.json` (`{"debian": URL, "security": URL}`), where the tools that make the file systems and the
        boot loader are fetched from. Without one they come from snapshot.debian.org, by the day of the lock.
      '';
    };

    kernelParams = mkOption {
      type = types.listOf types.str;
      default = ["console=ttyS0"];
      description = "More of the kernel's command line, which is part of the kernel image and cannot be changed at boot.";
    };

    allowLogin = mkOption {
      type = types.bool;
      default = false;
      description = "Whether somebody may log in, by SSH or at a console. Whoever can, can do so behind the hub's back.";
    };
  };
}
