{
  description = "Cairn: an edge OS and the hub that runs a fleet of it";

  # No lock is kept here yet: `nix flake lock` makes one. Rust 1.95 or newer is needed.
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs = {
    self,
    nixpkgs,
  }: let
    inherit (nixpkgs) lib;
    systems = [
      "x86_64-linux"
      "aarch64-linux"
    ];
    eachSystem = make: lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
    sources = import ./nix/sources.nix {inherit lib;};
  in {
    packages = eachSystem (pkgs: import ./nix/packages.nix {inherit lib pkgs sources;});

    overlays.default = final: _prev: {
      cairn = import ./nix/packages.nix {
        inherit lib sources;
        pkgs = final;
      };
    };

    nixosModules = {
      node = import ./modules/node.nix self;
      hub = import ./modules/hub.nix self;
      appliance = import ./modules/appliance.nix self;
      default.imports = [
        self.nixosModules.node
        self.nixosModules.hub
      ];
    };

    nixosConfigurations.appliance = lib.nixosSystem {
      modules = [
        self.nixosModules.appliance
        {nixpkgs.hostPlatform = "x86_64-linux";}
      ];
    };

    checks = eachSystem (pkgs: import ./nix/checks.nix {inherit lib pkgs self;});

    devShells = eachSystem (pkgs: {
      default = import ./nix/shell.nix {inherit pkgs;};
    });

    formatter = eachSystem (pkgs: pkgs.alejandra);
  };
}
