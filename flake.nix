{
  description = "Cairn: an edge OS and the hub that runs a fleet of it";

  inputs = {
    # Used lazily: with `cairn-bin` given, image, release and apps are made without it.
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

    # Programs that are there already, as `./x nix-bin` puts them: a folder with bin/cairnd and so on. Left as it is (this
    # flake itself), they are built from Cargo.lock.
    cairn-bin = {
      follows = "";
      flake = false;
    };

    # A site's Debian: a folder with mirror.json, and debian.lock where it is not ours.
    debian = {
      follows = "";
      flake = false;
    };
  };

  outputs = {
    self,
    nixpkgs,
    cairn-bin,
    debian,
  }: let
    # Of an input that was left as it is nothing is taken.
    given = input:
      if input.outPath == self.outPath
      then null
      else input.outPath;
    # nix/no-nixpkgs in its place: what needs nixpkgs is left out of checks and shells, so that `nix flake show` works.
    online = nixpkgs ? legacyPackages;

    each = make:
      builtins.listToAttrs (map (system: {
        name = system;
        value = make system;
      }) ["x86_64-linux" "aarch64-linux"]);
    on = system:
      import ./nix {
        inherit self nixpkgs system;
        binaries = given cairn-bin;
        site = given debian;
      };
    needsNixpkgs = make:
      if online
      then each make
      else {};
  in {
    # The programs; image and release on the Debian base, and the same on the NixOS base.
    packages = each (system: (on system).packages);

    # vm: boots the image on a throw-away disk. demo: a hub and such a node. flash: writes the image to a disk.
    apps = each (system: (on system).apps);

    # Images of one's own: see templates.default, and nix/appliance.nix for what it takes.
    lib.appliance = options: (on "x86_64-linux").appliance options;

    # services.cairn.node, services.cairn.hub, and a whole system that is a node and nothing else.
    nixosModules = {
      node = import ./modules/node.nix self;
      hub = import ./modules/hub.nix self;
      appliance = import ./modules/appliance.nix self;
      default.imports = [self.nixosModules.node self.nixosModules.hub];
    };

    nixosConfigurations.appliance = nixpkgs.lib.nixosSystem {
      modules = [
        self.nixosModules.appliance
        {
          nixpkgs.hostPlatform = "x86_64-linux";
          cairn.appliance.debian = given debian;
        }
      ];
    };

    overlays.default = final: _prev: {
      cairn = import ./nix/programs.nix {
        inherit (final) lib;
        pkgs = final;
      };
    };

    templates.default = {
      path = ./templates/appliance;
      description = "An appliance of one's own: our image with your hub, your network and your apps";
    };

    checks = needsNixpkgs (system: (on system).checks);
    devShells = needsNixpkgs (system: {default = (on system).shell;});
    formatter = needsNixpkgs (system: nixpkgs.legacyPackages.${system}.alejandra);
  };
}
