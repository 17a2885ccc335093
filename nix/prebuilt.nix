# Programs that somebody else has built, taken as they are: a folder with bin/.
{
  binaries,
  system,
}: let
  all = ["cairn" "cairnd" "cairn-hub" "cairn-image" "cairn-oci" "cairn-wasm" "cairn-init"];
  missing = builtins.filter (name: !(builtins.pathExists "${binaries}/bin/${name}")) all;

  # What `nix-env` makes its environments with is a part of Nix itself: no shell is needed to make links.
  folder = name:
    if missing != []
    then throw "the input cairn-bin has no bin/${builtins.head missing}; `./x nix-bin` makes such a folder, or leave cairn-bin as it is and let Nix build the programs"
    else
      derivation {
        inherit name;
        system = "builtin";
        builder = "builtin:buildenv";
        manifest = builtins.toFile "manifest.nix" "[]";
        derivations = [["true" 5 1 "${binaries}"]];
        preferLocalBuild = true;
        allowSubstitutes = false;
      };

  program = name: {
    inherit name;
    value =
      folder name
      // {
        inherit system;
        meta = {
          description = "${name}, as it was given by the input cairn-bin";
          mainProgram = name;
        };
      };
  };
in
  builtins.listToAttrs (map program all)
  // {
    # What goes into an image: all in one folder. They were built for Debian.
    inImage = "${binaries}/bin";
  }
