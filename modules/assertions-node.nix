# What would not work on a node: cause and cure of each. Every one has a case in tests/refused.nix.
{
  cfg,
  config,
  lib,
}: let
  inStore = path: path != null && lib.hasPrefix builtins.storeDir (toString path);
in [
  {
    assertion = cfg.hub.url == null || lib.hasPrefix "https://" cfg.hub.url;
    message = "services.cairn.node.hub.url is no https:// address, and the node speaks nothing else; write https://…";
  }
  {
    assertion = cfg.hub.url == null || cfg.hub.caFile != null;
    message = "services.cairn.node.hub.caFile is not set, so that the node could not tell its hub from another; name the ca.pem of `cairn-hub init`";
  }
  {
    assertion = cfg.hub.url != null || (cfg.hub.caFile == null && cfg.hub.enrollTokenFile == null);
    message = "services.cairn.node.hub has a caFile or an enrollTokenFile, but no hub to use it with; set services.cairn.node.hub.url";
  }
  {
    assertion = !inStore cfg.hub.enrollTokenFile;
    message = "services.cairn.node.hub.enrollTokenFile is in the Nix store, which is world-readable; name a file outside of it, as from sops-nix or agenix";
  }
  {
    assertion = builtins.match "[0-9]{1,3}\\.[0-9]{1,3}\\.0\\.0/16" cfg.networkRange != null;
    message = "services.cairn.node.networkRange is no /16 that begins with its first address; write one such as 10.89.0.0/16";
  }
  {
    assertion = !(cfg.settings ? hub);
    message = "services.cairn.node.settings.hub would go past the checks of the options; set services.cairn.node.hub instead";
  }
  {
    assertion = config.boot.kernelPackages.kernel.kernelAtLeast "6.1";
    message = "services.cairn.node needs Linux 6.1 or newer for its containers' mounts; set boot.kernelPackages";
  }
  {
    assertion = config.networking.nftables.enable;
    message = "services.cairn.node publishes ports with nftables; set networking.nftables.enable = true";
  }
  {
    assertion = !config.networking.firewall.filterForward;
    message = "services.cairn.node reaches its containers through the forward chain, and networking.firewall.filterForward would drop that; set it to false";
  }
]
