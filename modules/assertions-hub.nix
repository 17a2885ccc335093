# What would not work on a hub: cause and cure of each. Every one has a case in tests/refused.nix.
{
  cfg,
  lib,
}: let
  loopback = lib.elem cfg.address ["127.0.0.1" "::1" "localhost"];
  taken = lib.intersectLists (lib.attrNames cfg.settings) ["names" "addresses" "listen"];
in [
  {
    assertion = cfg.names != [] || cfg.addresses != [];
    message = "neither services.cairn.hub.names nor services.cairn.hub.addresses is set, so that nobody could check whom he talks to; name what the hub is reached by";
  }
  {
    assertion = lib.all (name: builtins.match "[A-Za-z0-9.-]+" name != null) cfg.names;
    message = "services.cairn.hub.names has something else than host names; write them without https:// and port, and addresses into services.cairn.hub.addresses";
  }
  {
    assertion = lib.all (address: builtins.match "[0-9.]+|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*" address != null) cfg.addresses;
    message = "services.cairn.hub.addresses has something else than IP addresses; write host names into services.cairn.hub.names";
  }
  {
    assertion = !cfg.openFirewall || !loopback;
    message = "services.cairn.hub.openFirewall is set, but the hub listens on loopback only; set services.cairn.hub.address to \"::\" or to an address of this machine";
  }
  {
    assertion = cfg.operatorKeys == null || !(lib.hasPrefix builtins.storeDir cfg.operatorKeys);
    message = "services.cairn.hub.operatorKeys is in the Nix store, which is world-readable; name a folder outside of it";
  }
  {
    assertion = taken == [];
    message = "services.cairn.hub.settings sets ${lib.concatStringsSep " and " taken}, which options set; use services.cairn.hub.names, .addresses, .address and .port";
  }
]
