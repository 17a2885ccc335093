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
  program = name: description:
    mkOption {
      type = types.package;
      default = packages.${name};
      defaultText = lib.literalExpression "cairn.packages.\${system}.${name}";
      inherit description;
    };
in {
  options.services.cairn.node = {
    enable = mkEnableOption "the Cairn node agent, which runs what its hub signs for it";

    package = program "cairnd" "The agent.";
    tools = program "cairn" "The tool that shows the node's own view: `cairn local status`.";
    runtimes = {
      oci = program "cairn-oci" "What starts containers.";
      wasm = program "cairn-wasm" "What runs WebAssembly.";
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
      type = types.str;
      default = "10.89.0.0/16";
      description = "Where replicas get their addresses from, on this node alone: a /16.";
    };

    media.enable = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether USB sticks carry what the node runs, and its reports: every stick that is plugged in is mounted read-only
        below `/run/cairn/media`, for the agent alone. Leave it off on a machine whose sticks are somebody else's, or that
        has a disk of its own on USB. The appliance has it on.
      '';
    };

    settings = mkOption {
      type = types.submodule {freeformType = toml.type;};
      default = {};
      example = {log.level = "debug";};
      description = "More of `cairnd.toml`. It is checked when the system is built.";
    };
  };
}
