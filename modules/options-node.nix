# The options of services.cairn.node.
self: {
  lib,
  pkgs,
  ...
}: let
  inherit (lib) mkOption mkEnableOption types;
  packages = self.packages.${pkgs.stdenv.hostPlatform.system};
  toml = pkgs.formats.toml {};
  # A path as text: a Nix path would be copied into the store, where everybody can read it.
  secretFile = types.nullOr (types.strMatching "/.+");
in {
  options.services.cairn.node = {
    enable = mkEnableOption "the Cairn node agent, which runs what its hub signs for it";

    package = mkOption {
      type = types.package;
      default = packages.cairnd;
      defaultText = lib.literalExpression "cairn.packages.\${system}.cairnd";
      description = "The agent.";
    };

    tools = mkOption {
      type = types.package;
      default = packages.cairn;
      defaultText = lib.literalExpression "cairn.packages.\${system}.cairn";
      description = "The tool that shows the node's own view: `cairn local status`.";
    };

    runtimes = {
      oci = mkOption {
        type = types.package;
        default = packages.cairn-oci;
        defaultText = lib.literalExpression "cairn.packages.\${system}.cairn-oci";
        description = "What starts containers.";
      };
      wasm = mkOption {
        type = types.package;
        default = packages.cairn-wasm;
        defaultText = lib.literalExpression "cairn.packages.\${system}.cairn-wasm";
        description = "What runs WebAssembly.";
      };
    };

    hub = {
      url = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "https://hub.example:8443";
        description = ''
          The hub to belong to. Without one the node runs what it last verified, and waits for the credentials
          `cairn.hub`, `cairn.hub-ca` and `cairn.enroll-token` from its firmware or hypervisor.
        '';
      };
      caFile = mkOption {
        type = types.nullOr types.path;
        default = null;
        description = "The hub's CA certificates (PEM), as `cairn-hub init` made them. They are no secret.";
      };
      enrollTokenFile = mkOption {
        type = secretFile;
        default = null;
        example = "/run/keys/cairn-enroll-token";
        description = "A file outside of the store that holds an enrolment token from `cairn token create`.";
      };
    };

    labels = mkOption {
      type = types.attrsOf types.str;
      default = {};
      example = {zone = "berlin";};
      description = "Labels that the node brings itself; those of the hub override them.";
    };

    networkRange = mkOption {
      type = types.strMatching "[0-9.]+/16";
      default = "10.89.0.0/16";
      description = "Where replicas get their addresses from, on this node alone.";
    };

    settings = mkOption {
      type = types.submodule {freeformType = toml.type;};
      default = {};
      description = "More of `cairnd.toml`. It is checked when the system is built.";
    };
  };
}
