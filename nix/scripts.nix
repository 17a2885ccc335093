# Programs of `nix run`: the scripts of run/bin, each in one folder with what it uses, so that it finds that beside itself.
{
  programs,
  system,
  # Where QEMU and its firmware come from; null takes those of this machine.
  pkgs,
}: name: description: parts: let
  # Part of Nix itself: links need no shell.
  all = [./run programs.cairn programs.cairn-hub programs.cairn-image] ++ parts;
  folder = derivation {
    name = "cairn-${name}";
    system = "builtin";
    builder = "builtin:buildenv";
    manifest = builtins.toFile "manifest.nix" "[]";
    # Programs that were given are one and the same folder: what comes first wins.
    derivations =
      builtins.genList (index: ["true" index 1 "${builtins.elemAt all index}"]) (builtins.length all);
    preferLocalBuild = true;
    allowSubstitutes = false;
  };
  script = "${folder}/bin/cairn-${name}";
in {
  type = "app";
  program =
    if pkgs == null
    then script
    else
      toString (pkgs.writeShellScript "cairn-${name}" ''
        export PATH="${pkgs.lib.makeBinPath [pkgs.qemu pkgs.coreutils pkgs.gnugrep]}:$PATH"
        export CAIRN_OVMF="${pkgs.OVMF.fd}/FV"
        exec ${script} "$@"
      '');
  meta = {
    inherit description;
    platforms = [system];
  };
}
