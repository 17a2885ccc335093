# services.cairn.node: the node agent on a NixOS machine.
self: {
  config,
  lib,
  pkgs,
  ...
}: let
  cfg = config.services.cairn.node;
  toml = pkgs.formats.toml {};

  settings =
    lib.recursiveUpdate
    {
      node.labels = cfg.labels;
      network.range = cfg.networkRange;
      runtime = {
        oci = lib.getExe cfg.runtimes.oci;
        wasm = lib.getExe cfg.runtimes.wasm;
        journalctl = "${config.systemd.package}/bin/journalctl";
      };
    }
    cfg.settings;

  written = toml.generate "cairnd.toml" settings;

  # The agent reads it now: an unknown key stops the build, not the node.
  checked = pkgs.runCommand "cairnd.toml" {passthru = {inherit settings;};} ''
    install -D -m 0644 ${written} root/etc/cairn/cairnd.toml
    ${lib.getExe cfg.package} check-config --root root
    cp ${written} $out
  '';

  # Secrets and what goes with them come as credentials: systemd reads the files, and nobody but the agent sees them.
  credentials =
    lib.optional (cfg.hub.url != null) "cairn.hub:${pkgs.writeText "cairn-hub-url" cfg.hub.url}"
    ++ lib.optional (cfg.hub.caFile != null) "cairn.hub-ca:${cfg.hub.caFile}"
    ++ lib.optional (cfg.hub.enrollTokenFile != null) "cairn.enroll-token:${cfg.hub.enrollTokenFile}";
in {
  imports = [(import ./options-node.nix self)];

  config = lib.mkIf cfg.enable {
    assertions = import ./assertions-node.nix {inherit cfg config lib;};

    environment.etc."cairn/cairnd.toml".source = checked;
    environment.systemPackages = [cfg.tools];

    # The units are those of dist/: hardened there, once for all flavours of the OS. What is set here comes on top.
    systemd.packages = [cfg.package];
    systemd.tmpfiles.packages = [cfg.package];
    services.dbus.packages = [cfg.package];
    systemd.services.cairnd = {
      overrideStrategy = "asDropin";
      wantedBy = ["multi-user.target"];
      restartTriggers = [checked];
      # Workloads are units of their own and outlive a restart of the agent: an update of the system may restart it.
      path = [pkgs.netavark pkgs.aardvark-dns pkgs.nftables pkgs.kmod config.systemd.package];
      serviceConfig.LoadCredential = credentials;
    };
    users.groups.cairn = {};
    # The rule that has a stick mounted; without it nothing starts cairn-media@.service.
    services.udev.packages = lib.mkIf cfg.media.enable [cfg.package];

    boot.kernelModules = ["overlay" "bridge" "br_netfilter" "veth" "nf_tables"];
    boot.kernel.sysctl = {
      "net.ipv4.ip_forward" = lib.mkDefault 1;
      "net.ipv6.conf.all.forwarding" = lib.mkDefault 1;
    };
    networking.nftables.enable = lib.mkDefault true;
    # Containers ask the name server on their own bridge.
    networking.firewall.interfaces."cairn*" = {
      allowedUDPPorts = [53];
      allowedTCPPorts = [53];
    };
  };
}
