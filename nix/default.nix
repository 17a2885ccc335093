# Everything of one system. Nothing here asks for nixpkgs where `binaries` are given, so that machines out of its reach make
# the same image.
{
  self,
  nixpkgs,
  system,
  binaries,
  site,
}: let
  inherit (nixpkgs) lib;
  pkgs = nixpkgs.legacyPackages.${system};
  prebuilt = binaries != null;
  inherit (builtins.fromTOML (builtins.readFile ../Cargo.toml)) workspace;

  programs =
    if prebuilt
    then import ./prebuilt.nix {inherit binaries system;}
    else import ./programs.nix {inherit lib pkgs;};

  debian = import ./debian.nix {
    inherit site;
    # nixpkgs' downloader has a second try where the mirror has moved on.
    fetchurl =
      if prebuilt
      then null
      else pkgs.fetchurl;
  };

  appliance = import ./appliance.nix {
    inherit debian system;
    inherit (programs) cairn-image inImage;
    inherit (workspace.package) version;
    scripts = import ./scripts.nix {
      inherit programs system;
      pkgs =
        if prebuilt
        then null
        else pkgs;
    };
  };

  ours = appliance {};

  names = ["cairn" "cairnd" "cairn-hub" "cairn-image" "cairn-oci" "cairn-wasm" "cairn-init"];
  pick = from: wanted:
    builtins.listToAttrs (map (name: {
        inherit name;
        value = from.${name};
      })
      wanted);

  # An image needs a boot loader, tools and partition types, all of which are amd64's; and NixOS comes from nixpkgs alone.
  onDebian =
    if system == "x86_64-linux"
    then {
      inherit (ours) image release;
      # With a root shell on a virtio port: what tests-vm boots.
      image-test = (appliance {test = true;}).image;
    }
    else {};
  nixos = self.nixosConfigurations.appliance.config.system.build;
  onNixos =
    if prebuilt || system != "x86_64-linux"
    then {}
    else {
      image-nixos = nixos.cairnImage;
      release-nixos = nixos.cairnRelease;
    };
  usable = !prebuilt || system == "x86_64-linux";
in {
  inherit appliance;

  packages =
    if usable
    then pick programs names // {default = programs.cairn;} // onDebian // onNixos
    else {};

  apps =
    if system == "x86_64-linux"
    then {
      inherit (ours) vm demo flash;
      default = ours.vm;
    }
    else {};

  checks = import ./checks.nix {inherit lib pkgs self system programs;};
  shell = import ./shell.nix {inherit pkgs;};
}
