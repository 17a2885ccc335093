# How the appliance boots from our disk layout, and what an update of it relies on: the root is found by its hash tree,
# because the partition table is never written again; each try is counted; only a whole boot is kept.
self: {
  config,
  lib,
  options,
  pkgs,
  ...
}: let
  inherit (self.packages.${pkgs.stdenv.hostPlatform.system}) cairn-init;
  attach = "${cairn-init}/bin/cairn-init";

  # Named by cairn-init: a stick with a Cairn of its own has the same labels.
  ofBootDisk = label: "/dev/disk/by-boot-disk/${label}";
in {
  boot = {
    initrd = {
      # NixOS's own initrd, with one service of ours; the Debian base has cairn-init in its place.
      systemd.enable = true;
      # Asked for by us and not by udev, whose rules for device-mapper would hide what they did not make.
      kernelModules = ["dm_mod" "dm_verity" "erofs"];
      availableKernelModules = ["ahci" "mmc_block" "nvme" "sd_mod" "sdhci_pci" "usb_storage" "virtio_blk" "virtio_pci" "virtio_scsi" "xhci_pci"];
      supportedFilesystems = ["erofs" "ext4"];

      systemd.storePaths = [attach];
      # Mounts /sysroot, or has the boot loader take the other slot where this one is damaged, and restarts.
      systemd.services.cairn-root = {
        description = "Verified root of the slot that the kernel image belongs to";
        requiredBy = ["sysroot.mount"];
        before = ["sysroot.mount" "initrd-root-fs.target"];
        after = ["systemd-modules-load.service" "systemd-udevd.service" "systemd-udev-trigger.service"];
        unitConfig.DefaultDependencies = false;
        serviceConfig = {
          Type = "oneshot";
          RemainAfterExit = true;
          ExecStart = "${attach} attach";
          # The partitions were seen before they were given the names that the other file systems have here.
          ExecStartPost = ["/bin/udevadm control --reload" "/bin/udevadm trigger --subsystem-match=block --settle"];
        };
      };
    };
    loader.grub.enable = false;
    kernelParams = [
      # Each of these must end in a boot, so that the loader can count it: a panic, and a failure in the initrd.
      "panic=3"
      "oops=panic"
      "boot.panic_on_fail"
      # The id that a node of the Debian base has on the same machine.
      "systemd.machine_id=firmware"
    ];
    tmp.useTmpfs = true;
  };

  fileSystems = {
    # No device that systemd would wait for: cairn-root.service has mounted it.
    "/" = {
      device = "cairn-root";
      fsType = "erofs";
      options = ["ro"];
      noCheck = true;
    };
    "/var" = {
      device = ofBootDisk "cairn-data";
      fsType = "ext4";
      autoResize = true;
      neededForBoot = true;
      # What is reserved is for the agent, as on the Debian base: nobody has uid 64998.
      options = ["nodev" "nosuid" "noatime" "resuid=64998"];
    };
    "/boot" = {
      device = ofBootDisk "ESP";
      fsType = "vfat";
      # As in dist/appliance/etc/fstab, which says why.
      options = ["nodev" "nosuid" "noexec" "noatime" "fmask=0177" "dmask=0077" "codepage=437" "iocharset=ascii" "utf8" "x-systemd.automount" "x-systemd.idle-timeout=1min" "x-systemd.device-timeout=15s"];
    };
  };

  # The root is complete: nothing is linked into it at boot.
  system.nixos-init.enable = true;
  environment = lib.optionalAttrs (options.environment ? createBinSh) {
    createBinSh = false;
    createUsrBinEnv = false;
  };
  # Nothing writes /etc either: it is made of the store at boot.
  system.etc.overlay = {
    enable = true;
    mutable = false;
  };
  services.userborn.enable = true;

  # The data partition grows to the end of the disk, and then its file system.
  systemd.repart = {
    enable = true;
    partitions."50-data" = {
      Type = "var";
      Label = "cairn-data";
    };
  };
  systemd.services."systemd-growfs@" = {
    overrideStrategy = "asDropin";
    after = ["systemd-repart.service"];
  };

  # The verdict on a system that is being tried, and what it holds up. Only the agent makes an entry good.
  systemd.targets.boot-complete = {
    description = "Boot Completion Check";
    requires = ["sysinit.target"];
    after = ["sysinit.target"];
  };
  systemd.services.cairn-os-confirm = {
    overrideStrategy = "asDropin";
    requiredBy = ["boot-complete.target"];
  };
  systemd.services.systemd-bless-boot.enable = false;
  # A machine that hangs resets itself, and nobody would see a shell.
  systemd.settings.Manager = {
    RuntimeWatchdogSec = "60s";
    RebootWatchdogSec = "3min";
    DefaultTimeoutStopSec = "30s";
  };
  systemd.enableEmergencyMode = false;

  # What a release is compared with: see ota/src/machine/discover.rs.
  system.image = {
    id = "cairn";
    inherit (config.cairn.appliance) version;
  };
  system.nixos.extraOSReleaseArgs.CAIRN_COMPATIBLE = config.cairn.appliance.compatible;
}
