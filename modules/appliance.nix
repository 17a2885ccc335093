# A machine that is a Cairn node and nothing else: nobody logs in, and its root is never written. Its disk is that of
# ota/src/layout.rs, made by cairn-image as the one on the Debian base is, and updated slot by slot as that one is.
self: {
  config,
  lib,
  modulesPath,
  pkgs,
  ...
}: let
  cfg = config.cairn.appliance;
  inherit (config.system.build) toplevel;
  inherit (self.packages.${pkgs.stdenv.hostPlatform.system}) cairn-image;

  # What makes the file systems, and the boot loader: the same bytes as for the Debian base.
  debian = import ../nix/debian.nix {
    site = cfg.debian;
    inherit (pkgs) fetchurl;
  };
  tools = pkgs.linkFarm "cairn-image-tools" debian.tools;

  plainVersion = builtins.match "[0-9]+(\\.[0-9]+){0,3}" cfg.version != null;
  plainName = builtins.match "[a-z0-9._-]{1,64}" cfg.compatible != null;
in {
  imports = [
    (import ./node.nix self)
    (import ./appliance-disk.nix self)
    ./options-appliance.nix
    (modulesPath + "/profiles/minimal.nix")
  ];

  config = {
    services.cairn.node.enable = true;
    services.cairn.node.media.enable = lib.mkDefault true;

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
      {
        assertion = lib.all (name: lib.hasPrefix "/dev/disk/by-boot-disk/" config.fileSystems.${name}.device) ["/boot" "/var"];
        message = "fileSystems.\"/boot\" or fileSystems.\"/var\" is not on the disk that was booted, so that an update would go elsewhere; leave both out, cairn.appliance sets them";
      }
      {
        assertion = pkgs.stdenv.hostPlatform.system == "x86_64-linux";
        message = "nixpkgs.hostPlatform is not x86_64-linux, and cairn.appliance has neither a boot loader nor partition types for another; use nixosModules.node there, on a disk of your own";
      }
    ];

    # Whoever has the console has the machine, but no shell on it.
    users.mutableUsers = false;
    users.allowNoPasswordLogin = true;
    systemd.services."getty@".enable = cfg.allowLogin;
    systemd.services."serial-getty@".enable = cfg.allowLogin;
    systemd.services.cairn-console = {
      overrideStrategy = "asDropin";
      wantedBy = lib.optional (!cfg.allowLogin) "multi-user.target";
    };
    security.sudo.enable = lib.mkDefault false;
    # What runs is replaced by releases, never from inside.
    nix.enable = false;
    system.switch.enable = false;
    system.stateVersion = lib.mkDefault "26.05";

    boot.kernelParams = cfg.kernelParams;
    networking.useNetworkd = true;
    services.resolved.enable = true;

    system.build = {
      # What `packages.image-nixos` is: the closure in the first slot, and its kernel image on the ESP.
      cairnImage =
        pkgs.runCommand "cairn-image-nixos-${cfg.version}" {
          closure = pkgs.closureInfo {rootPaths = [toplevel];};
          meta.description = "The disk image for ${cfg.compatible}, on the NixOS base";
        } ''
          ${lib.getExe cairn-image} assemble \
            --lock ${debian.lockFile} --packages ${tools} --closure $closure/store-paths \
            --kernel ${toplevel}/kernel --initrd ${toplevel}/initrd \
            --command-line "init=${toplevel}/init $(cat ${toplevel}/kernel-params)" \
            --version ${lib.escapeShellArg cfg.version} --compatible ${lib.escapeShellArg cfg.compatible} --output $out
        '';

      # What `packages.release-nixos` is: the same for nodes that run already.
      cairnRelease =
        pkgs.runCommand "cairn-release-nixos-${cfg.version}" {
          meta.description = "The OS release of the NixOS base, as an OCI image layout: `cairn os push` takes it";
        } ''
          ${lib.getExe cairn-image} release --image ${config.system.build.cairnImage} --output $out ${lib.escapeShellArgs (
            lib.concatMap (from: ["--patch-from" from]) cfg.patchFrom
            ++ lib.optionals (cfg.healthCommand != []) (["--health-command"] ++ cfg.healthCommand ++ [";"])
          )}
        '';
    };
  };
}
