# What would not work on a node: cause and cure of each.
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
    message = "services.cairn.node.hub.url is set, but not by which CA to know that hub; set hub.caFile to the ca.pem of `cairn-hub init`";
  }
  {
    assertion = cfg.hub.enrollTokenFile == null || cfg.hub.url != null;
    message = "services.cairn.node.hub.enrollTokenFile is set, but no hub to enrol with; set hub.url";
  }
  {
    assertion = !inStore cfg.hub.enrollTokenFile;
    message = "services.cairn.node.hub.enrollTokenFile is in the Nix store, which is world-readable; name a file outside of it, as from sops-nix or agenix";
  }
  {
    assertion = config.boot.kernelPackages.kernel.kernelAtLeast "6.1";
    message = "services.cairn.node needs Linux 6.1 or newer for its containers' mounts; set boot.kernelPackages";
  }
  {
    assertion = config.networking.nftables.enable;
    message = "services.cairn.node publishes ports with nftables; set networking.nftables.enable = true";
  }
]
