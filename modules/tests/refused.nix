# Configurations that cannot work, each with a part of the one thing that must be said: by tests/default.nix over stubs, and
# by nix/checks.nix with all of NixOS.
let
  node = config: {services.cairn.node = {enable = true;} // config;};
  hub = config: {
    services.cairn.hub =
      {
        enable = true;
        names = ["hub.example"];
      }
      // config;
  };
  known = {
    url = "https://hub.example";
    caFile = ./refused.nix;
  };
in {
  node-speaks-tls-only = {
    module = node {hub = known // {url = "http://hub.example";};};
    says = "services.cairn.node.hub.url is no https:// address";
  };
  node-without-a-trust-root = {
    module = node {hub = {inherit (known) url;};};
    says = "services.cairn.node.hub.caFile is not set";
  };
  token-without-a-hub = {
    module = node {hub.enrollTokenFile = "/run/keys/token";};
    says = "set services.cairn.node.hub.url";
  };
  token-in-the-store = {
    module = node {hub = known // {enrollTokenFile = "${builtins.storeDir}/00000000000000000000000000000000-token";};};
    says = "services.cairn.node.hub.enrollTokenFile is in the Nix store";
  };
  range-that-is-no-16 = {
    module = node {networkRange = "10.89.3.0/24";};
    says = "services.cairn.node.networkRange is no /16";
  };
  hub-by-settings = {
    module = node {settings.hub.url = "http://hub.example";};
    says = "services.cairn.node.settings.hub would go past";
  };
  kernel-too-old = {
    module = {pkgs, ...}: {
      imports = [(node {})];
      boot.kernelPackages = pkgs.linuxPackages_5_15;
    };
    says = "services.cairn.node needs Linux 6.1";
  };
  without-nftables = {
    module = {
      imports = [(node {})];
      networking.nftables.enable = false;
    };
    says = "networking.nftables.enable = true";
  };
  forwarding-is-filtered = {
    module = {
      imports = [(node {})];
      networking.firewall.filterForward = true;
    };
    says = "networking.firewall.filterForward";
  };
  hub-without-a-name = {
    module = hub {names = [];};
    says = "neither services.cairn.hub.names nor services.cairn.hub.addresses";
  };
  hub-named-by-a-url = {
    module = hub {names = ["https://hub.example:8443"];};
    says = "services.cairn.hub.names has something else than host names";
  };
  hub-address-is-a-name = {
    module = hub {addresses = ["hub.example"];};
    says = "services.cairn.hub.addresses has something else than IP addresses";
  };
  open-port-on-loopback = {
    module = hub {openFirewall = true;};
    says = "services.cairn.hub.openFirewall is set, but";
  };
  keys-in-the-store = {
    module = hub {operatorKeys = "${builtins.storeDir}/00000000000000000000000000000000-keys";};
    says = "services.cairn.hub.operatorKeys is in the Nix store";
  };
  names-by-settings = {
    module = hub {settings.listen = "[::]:80";};
    says = "services.cairn.hub.settings sets listen";
  };
}
