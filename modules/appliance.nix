# A machine that is a Cairn node and nothing else: nobody logs in, and its root is never written.
self: {
  config,
  lib,
  modulesPath,
  pkgs,
  ...
}: {
  imports = [
    (import ./node.nix self)
    (modulesPath + "/image/repart.nix")
    (modulesPath + "/profiles/minimal.nix")
  ];

  config = {
    services.cairn.node.enable = true;

    assertions = [
      {
        assertion = !config.services.openssh.enable;
        message = "the appliance has no SSH, so that nobody can log in behind the hub's back; use nixosModules.node on a machine of your own instead";
      }
    ];

    system.stateVersion = lib.mkDefault "26.05";
    system.image.id = "cairn";
    system.image.version = lib.mkDefault (lib.importTOML ../Cargo.toml).workspace.package.version;

    # Whoever has the console has the machine, but no shell on it.
    users.mutableUsers = false;
    users.allowNoPasswordLogin = true;
    systemd.services."getty@".enable = false;
    systemd.services."serial-getty@".enable = false;
    security.sudo.enable = false;
    nix.enable = false;

    boot = {
      # NixOS's own initrd; the Debian base has cairn-init in its place.
      initrd.systemd.enable = true;
      initrd.systemd.dmVerity.enable = true;
      initrd.supportedFilesystems = ["erofs"];
      loader.grub.enable = false;
      # A panic must end in a boot, so that the loader can count it.
      kernelParams = ["panic=3" "oops=panic"];
      tmp.useTmpfs = true;
    };

    networking.useNetworkd = true;
    services.resolved.enable = true;

    fileSystems."/" = {
      device = "/dev/mapper/root";
      fsType = "erofs";
      options = ["ro"];
    };
    fileSystems."/var" = {
      device = "/dev/disk/by-partlabel/cairn-data";
      fsType = "ext4";
      autoResize = true;
      neededForBoot = true;
      options = ["nodev" "nosuid"];
    };

    image.repart = {
      name = "cairn";
      partitions = import ../nix/partitions.nix {inherit config pkgs;};
    };
  };
}
