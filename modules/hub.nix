# services.cairn.hub: the hub on a NixOS machine. Its data folder is /var/lib/cairn-hub; what must be backed up is there.
self: {
  config,
  lib,
  pkgs,
  ...
}: let
  cfg = config.services.cairn.hub;
  toml = pkgs.formats.toml {};
  data = "/var/lib/cairn-hub";

  settings =
    {
      inherit (cfg) names addresses;
      listen = "${cfg.address}:${toString cfg.port}";
    }
    // cfg.settings;

  written = toml.generate "hub.toml" settings;

  # The hub reads it now: an unknown key stops the build, not the hub.
  checked = pkgs.runCommand "cairn-hub-config" {} ''
    install -D -m 0644 ${written} data/hub.toml
    ${lib.getExe cfg.package} check-config --data data
    cp ${written} $out
  '';

  nameArguments =
    lib.concatMap (name: ["--name" name]) cfg.names
    ++ lib.concatMap (address: ["--address" address]) cfg.addresses;
in {
  imports = [(import ./options-hub.nix self)];

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = cfg.names != [] || cfg.addresses != [];
        message = "neither services.cairn.hub.names nor services.cairn.hub.addresses is set, so that nobody could check whom he talks to; name what the hub is reached by";
      }
      {
        assertion = !cfg.openFirewall || !(lib.elem cfg.address ["127.0.0.1" "[::1]"]);
        message = "services.cairn.hub.openFirewall is set, but the hub listens on loopback only; set address to \"[::]\" or to an address of this machine";
      }
    ];

    networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall [cfg.port];

    # The unit is the one of dist/: hardened there, once for all systems.
    systemd.packages = [cfg.package];
    systemd.services.cairn-hub = {
      overrideStrategy = "asDropin";
      wantedBy = ["multi-user.target"];
      requires = ["cairn-hub-init.service"];
      after = ["cairn-hub-init.service"];
      restartTriggers = [checked];
      preStart = ''
        mkdir -p ${data}/hub.toml.d
        ln -sfn ${checked} ${data}/hub.toml.d/10-nixos.toml
      '';
    };

    # Keys, CA, database and the first admin's token (${data}/admin.token), made once.
    systemd.services.cairn-hub-init = {
      description = "Make the data folder of the Cairn hub";
      unitConfig.ConditionPathExists = "!${data}/hub.toml";
      serviceConfig = {
        Type = "oneshot";
        User = "cairn-hub";
        Group = "cairn-hub";
        StateDirectory = "cairn-hub";
        StateDirectoryMode = "0700";
        UMask = "0077";
        ProtectSystem = "strict";
        ProtectHome = true;
        PrivateTmp = true;
        PrivateNetwork = true;
        NoNewPrivileges = true;
        ExecStart = lib.escapeShellArgs ([(lib.getExe cfg.package) "init" "--data" data] ++ nameArguments);
      };
    };

    users.users.cairn-hub = {
      isSystemUser = true;
      group = "cairn-hub";
      home = data;
    };
    users.groups.cairn-hub = {};

    # For the operator who sits at this machine.
    environment.systemPackages = [cfg.package];
  };
}
