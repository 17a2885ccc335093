# What the builds read of this tree: an edit of the docs rebuilds nothing.
{lib}: let
  root = ../.;
  inherit (lib) fileset;
  existing = paths: fileset.unions (map fileset.maybeMissing paths);
  toSource = paths:
    fileset.toSource {
      inherit root;
      fileset = existing paths;
    };
in {
  # Everything that cargo reads.
  rust = toSource [
    ../Cargo.toml
    ../Cargo.lock
    ../.cargo
    ../clippy.toml
    ../rustfmt.toml
    ../model
    ../trust
    ../ota
    ../runtime
    ../daemon
    ../hub
    ../cli
    ../image
    ../tests-vm
    ../xtask
    # Some tests compare with these.
    ../docs
    ../README.md
    ../dist
    ../examples
  ];

  # What is installed on a target, as it will lie there.
  dist = toSource [../dist];
}
