# NixOS's options that our modules set or read, and no more: so the modules evaluate with nixpkgs' lib alone. A type is as
# NixOS has it where that decides how definitions are merged.
{lib, ...}: let
  inherit (lib) mkOption types;
  option = type: default: mkOption {inherit type default;};
  bool = option types.bool;
  text = option types.str "";
  strings = option (types.listOf types.str) [];
  packages = option (types.listOf types.package) [];
  free = option (types.attrsOf types.anything) {};
  unit = types.submodule {
    freeformType = types.attrsOf types.anything;
    options = {
      enable = bool true;
      wantedBy = strings;
      requiredBy = strings;
      requires = strings;
      before = strings;
      after = strings;
      path = packages;
      restartTriggers = packages;
    };
  };
  fileSystem = types.submodule {
    options = {
      device = text;
      fsType = text;
      options = strings;
      autoResize = bool false;
      noCheck = bool false;
      neededForBoot = bool false;
    };
  };
in {
  options = {
    assertions = option (types.listOf types.unspecified) [];
    nixpkgs.hostPlatform = option types.str "x86_64-linux";
    environment = {
      createBinSh = bool true;
      createUsrBinEnv = bool true;
      etc = free;
      systemPackages = packages;
    };
    systemd = {
      package = mkOption {type = types.package;};
      inherit packages;
      services = option (types.attrsOf unit) {};
      targets = option (types.attrsOf unit) {};
      settings.Manager = free;
      enableEmergencyMode = bool true;
      repart.enable = bool false;
      repart.partitions = free;
      tmpfiles = {
        inherit packages;
        settings = free;
      };
    };
    services = {
      dbus.packages = packages;
      udev.packages = packages;
      openssh.enable = bool false;
      resolved.enable = bool false;
      userborn.enable = bool false;
    };
    users = {
      users = free;
      groups = free;
      mutableUsers = bool true;
      allowNoPasswordLogin = bool false;
    };
    networking = {
      nftables.enable = bool false;
      useNetworkd = bool false;
      firewall = {
        allowedTCPPorts = option (types.listOf types.port) [];
        filterForward = bool false;
        interfaces = free;
      };
    };
    boot = {
      kernelPackages = mkOption {type = types.raw;};
      kernelModules = strings;
      kernelParams = strings;
      kernel.sysctl = free;
      tmp.useTmpfs = bool false;
      loader.grub.enable = bool true;
      initrd = {
        systemd.enable = bool false;
        systemd.services = option (types.attrsOf unit) {};
        systemd.storePaths = strings;
        supportedFilesystems = strings;
        kernelModules = strings;
        availableKernelModules = strings;
      };
    };
    fileSystems = option (types.attrsOf fileSystem) {};
    security.sudo.enable = bool true;
    nix.enable = bool true;
    system = {
      stateVersion = text;
      image.id = text;
      image.version = text;
      nixos.extraOSReleaseArgs = free;
      switch.enable = bool true;
      nixos-init.enable = bool false;
      etc.overlay.enable = bool false;
      etc.overlay.mutable = bool true;
      build = option (types.lazyAttrsOf types.unspecified) {};
    };
  };
}
