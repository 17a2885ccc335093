# Debian's packages by a lock, each a derivation with a fixed output: what is downloaded is checked before anything sees it.
{
  # A folder with mirror.json ({"debian": URL, "security": URL}) and, where it is not ours, debian.lock.
  site,
  # nixpkgs' downloader, or null for Nix's own.
  fetchurl,
}: let
  of = name: ours:
    if site != null && builtins.pathExists "${site}/${name}"
    then "${site}/${name}"
    else ours;

  lockFile = builtins.path {
    path = of "debian.lock" ../image/debian.lock;
    name = "debian.lock";
  };
  lock = builtins.fromTOML (builtins.readFile lockFile);

  named = of "mirror.json" null;
  mirror =
    if named != null
    then builtins.fromJSON (builtins.readFile named)
    else if fetchurl != null
    then {}
    else throw "no Debian mirror is named; write this machine's with `cairn-image mirror > FOLDER/mirror.json`, and give --override-input debian path:FOLDER (`./x nix` does both)";

  # Debian's mirrors drop what is superseded; this archive keeps it, by the time at which the lock was solved.
  snapshot = archive: let
    folder =
      if archive == "security"
      then "debian-security"
      else archive;
  in "https://snapshot.debian.org/archive/${folder}/${import ./timestamp.nix lock.epoch}";

  # The name that `cairn-image fetch` gives it.
  fileName = package: let
    version = builtins.replaceStrings [":" "+" "~"] ["-" "-" "-"] package.version;
  in "${package.name}_${version}_${package.arch}_${builtins.substring 0 12 package.sha256}.deb";

  wrong = package: what: throw "debian.lock: package ${package.name or "without a name"} has ${what}; make the lock again with `cairn-image lock`";

  checked = package:
    if builtins.match "[0-9a-f]{64}" (package.sha256 or "") == null
    then wrong package "no SHA-256 in lower-case hex"
    else if builtins.match "pool/[^ ]*\\.deb" (package.path or "") == null
    then wrong package "a path that is not below pool/"
    else if named != null && !(builtins.hasAttr (package.archive or "") mirror)
    then wrong package "an archive that mirror.json names no address of"
    else package;

  # Nix says the whole address where it cannot be had, and no server ever sees what follows '#'.
  cure = "#gone?-renew-debian.lock-with-cairn-image-lock,-or-name-a-snapshot-in-mirror.json";

  fetch = entry: let
    package = checked entry;
    below = base: "${base}/${package.path}${cure}";
    name = fileName package;
    inherit (package) sha256;
  in
    if fetchurl == null
    then
      import <nix/fetchurl.nix> {
        inherit name sha256;
        url = below mirror.${package.archive};
      }
    else
      fetchurl {
        inherit name sha256;
        # The mirror that was named, if any, and then the archive of all days.
        urls = map below (builtins.filter (base: base != null) [(mirror.${package.archive} or null) (snapshot package.archive)]);
      };
in {
  inherit lockFile;

  # What `cairn-image` runs, by the names that it looks for.
  tools =
    map (package: {
      name = fileName package;
      path = fetch package;
    })
    lock.tools;

  # Each once, whichever section of the lock names it.
  packages = builtins.attrValues (builtins.listToAttrs (map (package: {
    name = package.sha256 or "";
    value = fetch package;
  }) (lock.root ++ lock.tools)));
}
