# The options of services.cairn.hub.
self: {
  lib,
  pkgs,
  ...
}: let
  inherit (lib) mkOption mkEnableOption types;
  packages = self.packages.${pkgs.stdenv.hostPlatform.system};
  toml = pkgs.formats.toml {};
in {
  options.services.cairn.hub = {
    enable = mkEnableOption "the hub of a Cairn fleet";

    package = mkOption {
      type = types.package;
      default = packages.cairn-hub;
      defaultText = lib.literalExpression "cairn.packages.\${system}.cairn-hub";
      description = "The hub.";
    };

    tools = mkOption {
      type = types.package;
      default = packages.cairn;
      defaultText = lib.literalExpression "cairn.packages.\${system}.cairn";
      description = "The operator's tool, for whoever sits at this machine.";
    };

    names = mkOption {
      type = types.listOf types.str;
      default = [];
      example = ["hub.example"];
      description = "Host names that nodes and operators reach the hub by; they stand in its certificate.";
    };

    addresses = mkOption {
      type = types.listOf types.str;
      default = [];
      example = ["192.0.2.7"];
      description = "Addresses that nodes and operators reach the hub by; they stand in its certificate.";
    };

    address = mkOption {
      type = types.str;
      default = "127.0.0.1";
      example = "::";
      description = "Address to listen on, always by TLS: there is no way to listen without.";
    };

    port = mkOption {
      type = types.port;
      default = 8443;
      description = "Port to listen on.";
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Whether to let others reach the port.";
    };

    operatorKeys = mkOption {
      type = types.nullOr (types.strMatching "/.+");
      default = null;
      example = "/var/lib/cairn-operator-keys";
      description = ''
        Folder outside of the store that the first start puts the keys into which belong to operators (root, artifacts
        targets), so that they can be taken offline. Without one they stay in the hub's data folder.
      '';
    };

    settings = mkOption {
      type = types.submodule {freeformType = toml.type;};
      default = {};
      example = {max_uploads = 16;};
      description = "More of `hub.toml`. It is checked when the system is built.";
    };
  };
}
