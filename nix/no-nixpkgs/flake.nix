{
  description = "Stands for nixpkgs where it cannot be had: `--override-input nixpkgs path:./nix/no-nixpkgs`";

  outputs = _: {};
}
