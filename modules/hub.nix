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

  host =
    if lib.hasInfix ":" cfg.address
    then "[${cfg.address}]"
    else cfg.address;

  settings =
    {
      inherit (cfg) names addresses;
      listen = "${host}:${toString cfg.port}";
    }
    // cfg.settings;

  written = toml.generate "hub.toml" settings;

  # The hub reads it now: an unknown key stops the build, not the hub.
  checked = pkgs.runCommand "hub.toml" {passthru = {inherit settings;};} ''
    install -D -m 0644 ${written} data/hub.toml
    ${lib.getExe cfg.package} check-config --data data
    cp ${written} $out
  '';

  init =
    [(lib.getExe cfg.package) "init" "--data" data]
    ++ lib.concatMap (name: ["--name" name]) cfg.names
    ++ lib.concatMap (address: ["--address" address]) cfg.addresses
    ++ lib.optionals (cfg.operatorKeys != null) ["--operator-keys" cfg.operatorKeys];
in {
  imports = [(import ./options-hub.nix self)];

  config = lib.mkIf cfg.enable {
    assertions = import ./assertions-hub.nix {inherit cfg lib;};

    networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall [cfg.port];

    # The unit is the one of dist/: hardened there, once for all systems. What is set here comes on top.
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
        ExecStart = lib.escapeShellArgs init;
        User = "cairn-hub";
        Group = "cairn-hub";
        StateDirectory = "cairn-hub";
        StateDirectoryMode = "0700";
        ReadWritePaths = lib.optional (cfg.operatorKeys != null) cfg.operatorKeys;
        UMask = "0077";
        ProtectSystem = "strict";
        ProtectHome = true;
        PrivateTmp = true;
        PrivateDevices = true;
        PrivateNetwork = true;
        NoNewPrivileges = true;
        CapabilityBoundingSet = "";
        RestrictNamespaces = true;
        RestrictSUIDSGID = true;
        LockPersonality = true;
        MemoryDenyWriteExecute = true;
        SystemCallArchitectures = "native";
        SystemCallFilter = ["@system-service" "~@privileged @resources"];
      };
    };

    # The first start writes there as the hub's own user.
    systemd.tmpfiles.settings = lib.mkIf (cfg.operatorKeys != null) {
      cairn-operator-keys.${cfg.operatorKeys}.d = {
        user = "cairn-hub";
        group = "cairn-hub";
        mode = "0700";
      };
    };

    users.users.cairn-hub = {
      isSystemUser = true;
      group = "cairn-hub";
      home = data;
    };
    users.groups.cairn-hub = {};

    # For the operator who sits at this machine.
    environment.systemPackages = [cfg.package cfg.tools];
  };
}
