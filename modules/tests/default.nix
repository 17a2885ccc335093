# The modules, evaluated with nixpkgs' `lib` over stubs of the NixOS options that they set: what `./x nix-eval` compares.
{lib}: let
  systems = ["x86_64-linux" "aarch64-linux"];
  made = lib.genAttrs systems (system: import ./pkgs.nix {inherit lib system;});
  inherit (made.x86_64-linux) pkgs fake;
  names = ["cairn" "cairnd" "cairn-hub" "cairn-oci" "cairn-wasm" "cairn-image" "cairn-init"];
  self = {
    packages = lib.genAttrs systems (_: lib.genAttrs names (name: fake name {}));
    nixosConfigurations.appliance.config = evaluate [appliance];
  };

  node = import ../node.nix self;
  hub = import ../hub.nix self;
  appliance = import ../appliance.nix self;

  evaluate = modules:
    (lib.evalModules {
      specialArgs.modulesPath = ./stubs;
      modules =
        modules
        ++ [
          ./stubs.nix
          ({config, ...}: {
            _module.args = {inherit (made.${config.nixpkgs.hostPlatform}) pkgs;};
            systemd.package = pkgs.systemd;
            boot.kernelPackages = lib.mkDefault pkgs.linuxPackages;
            system.build.toplevel = fake "nixos-system" {};
          })
        ];
    })
    .config;

  # A derivation says what it was made of; anything else is as it is.
  shown = value:
    if value ? script
    then {${value.name} = shown (value.passthru or {}) // {script = lib.splitString "\n" (lib.trim value.script);};}
    else if lib.isDerivation value
    then value.outPath
    else if builtins.isPath value
    then builtins.baseNameOf value
    else if builtins.isFunction value
    then "a function"
    else if builtins.isAttrs value
    then lib.mapAttrs (_: shown) value
    else if builtins.isList value
    then map shown value
    else value;

  # The store path of a file of this tree begins with the hash of the whole tree.
  plain = text:
    lib.concatStringsSep "/nix/store/…-" (map (part:
      if builtins.isList part
      then ""
      else part) (lib.filter builtins.isString (builtins.split "/nix/store/[0-9a-z]{32}-" text)));
  plainly = value:
    if builtins.isString value
    then plain (builtins.unsafeDiscardStringContext value)
    else if builtins.isAttrs value
    then lib.mapAttrs (_: plainly) value
    else if builtins.isList value
    then map plainly value
    else value;

  golden = modules: let
    config = evaluate modules;
    failed = lib.filter (assertion: !assertion.assertion) config.assertions;
  in
    assert lib.assertMsg (failed == []) "a golden configuration is refused: ${(lib.head failed).message}";
      plainly (shown (lib.removeAttrs config ["assertions" "nixpkgs"]));

  said = modules: map (assertion: assertion.message) (lib.filter (assertion: !assertion.assertion) (evaluate modules).assertions);
  refusals = modules: cases:
    lib.mapAttrs (_: case: {
      inherit (case) says;
      said = said (modules ++ [case.module]);
    })
    cases;

  # What the flake makes with nixpkgs: names and texts. Nix 2.8 lacks what filesets need.
  flat = lib.extend (_final: previous: {
    fileset =
      previous.fileset
      // {
        toSource = _: "/source";
        unions = _: [];
        maybeMissing = path: path;
      };
    nixosSystem = {modules}: {config.assertions = (evaluate (lib.drop 2 modules)).assertions;};
  });
  programs = import ../../nix/programs.nix {
    inherit pkgs;
    lib = flat;
  };
  checks = import ../../nix/checks.nix {
    inherit pkgs programs;
    lib = flat;
    system = "x86_64-linux";
    self =
      self
      // {
        nixosModules = {
          inherit node hub appliance;
          default.imports = [node hub];
        };
      };
  };

  # What the flake has for one system, with what each is for.
  outputs = system: let
    inherit
      (import ../../nix {
        inherit self system;
        nixpkgs = {
          lib = flat;
          legacyPackages.${system} = made.${system}.pkgs;
        };
        binaries = null;
        site = null;
      })
      packages
      apps
      ;
    described = lib.mapAttrs (_: output: output.meta.description);
  in {
    packages = described packages;
    apps = described apps;
  };

  scripts = import ../../nix/scripts.nix {
    inherit pkgs programs;
    system = "x86_64-linux";
  };
in {
  goldens = {
    # What nixpkgs would be asked for.
    flake = {
      outputs = lib.genAttrs systems outputs;
      inImage = programs.inImage.meta.description;
      install = lib.mapAttrs (_: program: lib.splitString "\n" (plain program.postInstall)) {inherit (programs) cairnd cairn-hub;};
      mounters = plain programs.cairnd.postPatch;
      checks = lib.mapAttrs (_: check: plain (check.testScript or check.script or check.name)) checks;
      vm = plain (scripts "vm" "Boot" []).program;
      shell = map (package: package.name) (import ../../nix/shell.nix {inherit pkgs;}).packages;
    };

    # Nothing but the switch.
    node-defaults = golden [node {services.cairn.node.enable = true;}];
    hub-defaults = golden [
      hub
      {
        services.cairn.hub = {
          enable = true;
          names = ["hub.example"];
        };
      }
    ];

    # A site on one machine: every option of hub and node.
    site = golden [node hub ./site.nix];

    # The whole appliance.
    appliance = golden [
      appliance
      {
        cairn.appliance = {
          version = "1.4.0";
          compatible = "acme-box-2";
        };
        services.cairn.node.hub = {
          url = "https://hub.example:8443";
          caFile = "/etc/hub-ca.pem";
        };
      }
    ];
  };

  refused =
    refusals [node hub] (import ./refused.nix)
    // refusals [appliance] (import ./refused-appliance.nix);
}
