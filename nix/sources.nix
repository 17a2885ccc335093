# What the builds read of this tree: an edit of the docs rebuilds nothing that does not read them.
{lib}: let
  root = ../.;
  inherit (lib) fileset;
  toSource = paths:
    fileset.toSource {
      inherit root;
      fileset = fileset.unions (map fileset.maybeMissing paths);
    };
  members = (lib.importTOML ../Cargo.toml).workspace.members;
in {
  # Everything that cargo reads. Some tests compare with what is not Rust.
  rust = toSource (map (member: root + "/${member}") members
    ++ [
      ../Cargo.toml
      ../Cargo.lock
      ../.cargo
      ../clippy.toml
      ../rustfmt.toml
      ../docs
      ../README.md
      ../dist
      ../examples
    ]);

  # What is installed on a target, as it will lie there.
  dist = toSource [../dist];
}
