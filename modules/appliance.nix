# A machine that is a Cairn node and nothing else: nobody logs in, and its root is never written. Its disk is that of
# ota/src/layout.rs, made by cairn-image as the one on the Debian base is.
self: {
  config,
  lib,
  modulesPath,
  pkgs,
  ...
}: let
  cfg = config.cairn.appliance;
  inherit (config.system.build) toplevel;

  # What makes the file systems, and the boot loader: the same bytes as for the Debian base.
  debian = import ../nix/debian.nix {
    site = null;
    inherit (pkgs) fetchurl;
  };
  tools = pkgs.linkFarm "cairn-image-tools" debian.tools;

  plainVersion = builtins.match "[0-9]+(\\.[0-9]+){0,3}" cfg.version != null;
  plainName = builtins.match "[a-z0-9._-]{1,64}" cfg.compatible != null;
in {
  imports = [
    (import ./node.nix self)
    ./options-appliance.nix
    (modulesPath + "/profiles/minimal.nix")
  ];

  config = {
    services.cairn.node.enable = true;

    assertions = [
      {
        assertion = plainVersion;
        message = "cairn.appliance.version is no version; write numbers with dots, such as \"1.4.0\"";
      }
      {
        assertion = plainName;
        message = "cairn.appliance.compatible names no kind of machine; use 1 to 64 of a-z, 0-9, '.', '_' and '-', such as \"acme-box-2\"";
      }
      {
        assertion = cfg.allowLogin || !config.services.openssh.enable;
        message = "services.openssh.enable would let somebody log in behind the hub's back; leave it out, or set cairn.appliance.allowLogin";
      }
      {
        assertion = config.fileSystems."/".fsType == "erofs";
        message = "fileSystems.\"/\" is not the verified root of the appliance; cairn.appliance sets it: leave it out, or use nixosModules.node on a disk of your own";
      }
    ];

    # Whoever has the console has the machine, but no shell on it.
    users.mutableUsers = false;
    users.allowNoPasswordLogin = true;
    systemd.services."getty@".enable = cfg.allowLogin;
    systemd.services."serial-getty@".enable = cfg.allowLogin;
    security.sudo.enable = lib.mkDefault false;
    # What runs is replaced by releases, never from inside.
    nix.enable = false;
    system.switch.enable = false;
    # Nothing writes /etc either: it is made of the store at boot.
    system.etc.overlay = {
      enable = true;
      mutable = false;
    };
    services.userborn.enable = true;

    system.stateVersion = lib.mkDefault "26.05";
    system.image.id = "cairn";
    system.image.version = cfg.version;
    system.nixos.extraOSReleaseArgs.CAIRN_COMPATIBLE = cfg.compatible;

    boot = {
      # NixOS's own initrd; the Debian base has cairn-init in its place.
      initrd.systemd.enable = true;
      initrd.systemd.dmVerity.enable = true;
      initrd.supportedFilesystems = ["erofs" "ext4"];
      loader.grub.enable = false;
      # A panic must end in a boot, so that the loader can count it.
      kernelParams = ["panic=3" "oops=panic"] ++ cfg.kernelParams;
      tmp.useTmpfs = true;
    };

    networking.useNetworkd = true;
    services.resolved.enable = true;

    fileSystems = {
      "/" = {
        device = "/dev/mapper/root";
        fsType = "erofs";
        options = ["ro"];
      };
      "/var" = {
        device = "/dev/disk/by-partlabel/cairn-data";
        fsType = "ext4";
        autoResize = true;
        neededForBoot = true;
        options = ["nodev" "nosuid" "noatime"];
      };
      "/boot" = {
        device = "/dev/disk/by-partlabel/ESP";
        fsType = "vfat";
        options = ["nodev" "nosuid" "noexec" "umask=0077" "x-systemd.automount" "x-systemd.idle-timeout=1min"];
      };
    };

    # What `packages.image-nixos` is: the closure in the first slot, and its kernel image on the ESP.
    system.build.cairnImage =
      pkgs.runCommand "cairn-image-nixos-${cfg.version}" {
        closure = pkgs.closureInfo {rootPaths = [toplevel];};
        meta.description = "The disk image for ${cfg.compatible}, on the NixOS base";
      } ''
        ${lib.getExe self.packages.${pkgs.stdenv.hostPlatform.system}.cairn-image} assemble \
          --lock ${debian.lockFile} --packages ${tools} --closure $closure/store-paths \
          --kernel ${toplevel}/kernel --initrd ${toplevel}/initrd \
          --command-line "init=${toplevel}/init $(cat ${toplevel}/kernel-params)" \
          --version ${lib.escapeShellArg cfg.version} --compatible ${lib.escapeShellArg cfg.compatible} --output $out
      '';
  };
}
