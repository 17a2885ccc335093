# An image on the Debian base, and all that is made of it, by options that a site sets. What is wrong with an option is said
# when it is evaluated, what is wrong with a file when the image is built: never at boot.
{
  debian,
  system,
  cairn-image,
  inImage,
  version,
  scripts,
}: options: let
  known = {
    # Version of the image: a node takes only what is newer than what it runs.
    version = version;
    # Which machines it is for: a node takes only releases with the same string.
    compatible = "cairn-generic-amd64";
    # The hub to belong to: {url, caFile}. Without one a node is told by `flash`, its firmware or its hypervisor.
    hub = null;
    # Labels that nodes bring themselves.
    labels = {};
    # Files for systemd-networkd; without one every wired interface asks by DHCP.
    network = [];
    # Anything else: where it lies in the image, and the file.
    files = {};
    # A folder of Compose files, for the app `deploy`.
    apps = null;
    # Command that must end with 0 on a node before a release is kept there, as an argument list.
    healthCommand = [];
    # Earlier releases or images, to make a patch from each.
    patchFrom = [];
    # With a root shell on a virtio port: for tests only.
    test = false;
  };
  unknown = builtins.filter (name: !(builtins.hasAttr name known)) (builtins.attrNames options);
  given = known // options;

  refuse = option: cause: cure: throw "the appliance's option ${option} ${cause}; ${cure}";
  isText = pattern: value: builtins.isString value && builtins.match pattern value != null;
  baseName = path: builtins.baseNameOf (toString path);

  refusals = [
    {
      when = unknown != [];
      say = refuse (builtins.head unknown) "does not exist" "known are ${builtins.concatStringsSep ", " (builtins.attrNames known)}";
    }
    {
      when = !isText "[0-9]+(\\.[0-9]+){0,3}" given.version;
      say = refuse "version" "is no version" "write numbers with dots, such as \"1.4.0\"";
    }
    {
      when = !isText "[a-z0-9._-]{1,64}" given.compatible;
      say = refuse "compatible" "names no kind of machine" "use 1 to 64 of a-z, 0-9, '.', '_' and '-', such as \"acme-box-2\"";
    }
    {
      when = given.hub != null && !isText "https://[^/?#]+/?" (given.hub.url or null);
      say = refuse "hub.url" "is no https:// address without a path, and nodes speak nothing else" "write \"https://hub.example:8443\"";
    }
    {
      when = given.hub != null && !(given.hub ? caFile);
      say = refuse "hub.caFile" "is missing, so that a node could not tell its hub from another" "name the ca.pem that `cairn-hub init` made";
    }
    {
      when = given.hub != null && given.hub ? tokenFile;
      say = refuse "hub.tokenFile" "would put a secret into the image and the store, for everybody to read" "give it to the disk: `nix run .#flash -- … --token-file FILE`";
    }
    {
      when = !(builtins.all (value: isText "[^\n]*" value) (builtins.attrValues given.labels));
      say = refuse "labels" "has a value that is no line of text" "write labels.zone = \"berlin\"";
    }
    {
      when = !(builtins.all (file: isText ".*\\.(network|netdev|link)" (baseName file)) given.network);
      say = refuse "network" "names a file that systemd-networkd would not read" "give each the ending .network, .netdev or .link";
    }
    {
      when = given.apps != null && !(builtins.pathExists given.apps);
      say = refuse "apps" "is a folder that does not exist" "make it and put Compose files into it, or leave the option out";
    }
  ];
  sound = builtins.all (refusal:
    if refusal.when
    then refusal.say
    else true)
  refusals;

  # A basic string of TOML may be written as JSON writes a string.
  quoted = builtins.toJSON;
  settings =
    (
      if given.hub == null
      then []
      else ["[hub]" "url = ${quoted given.hub.url}" "ca_file = \"/etc/cairn/hub-ca.pem\""]
    )
    ++ (
      if given.labels == {}
      then []
      else ["[node.labels]"] ++ map (name: "${quoted name} = ${quoted given.labels.${name}}") (builtins.attrNames given.labels)
    );

  files =
    (
      if settings == []
      then {}
      else {"etc/cairn/cairnd.toml.d/10-site.toml" = builtins.toFile "10-site.toml" (builtins.concatStringsSep "\n" settings + "\n");}
    )
    // (
      if given.hub == null
      then {}
      else {"etc/cairn/hub-ca.pem" = given.hub.caFile;}
    )
    // builtins.listToAttrs (map (file: {
        name = "etc/systemd/network/${baseName file}";
        value = file;
      })
      given.network)
    // given.files;

  flag = name: values: builtins.concatMap (value: ["--${name}" value]) values;

  make = what: arguments:
    assert sound;
      derivation {
        inherit system;
        name = "${what}-${given.version}";
        builder = "${cairn-image}/bin/cairn-image";
        args = arguments;
      };

  image =
    make "cairn-image" (
      [
        "build"
        "--lock"
        debian.lockFile
        "--binaries"
        inImage
        "--dist"
        (builtins.path {
          path = ../dist;
          name = "dist";
        })
        "--version"
        given.version
        "--compatible"
        given.compatible
        "--output"
        (placeholder "out")
      ]
      ++ flag "packages" debian.packages
      ++ flag "file" (map (path: "${path}=${files.${path}}") (builtins.attrNames files))
      ++ (
        if given.test
        then ["--test"]
        else []
      )
    )
    // {meta.description = "The disk image for ${given.compatible}, its parts and its manifest, on the Debian base";};

  release =
    make "cairn-release" (
      ["release" "--image" image "--output" (placeholder "out")]
      ++ flag "patch-from" given.patchFrom
      ++ (
        if given.healthCommand == []
        then []
        else ["--health-command"] ++ given.healthCommand ++ [";"]
      )
    )
    // {meta.description = "The OS release for nodes that run already, as an OCI image layout: `cairn os push` takes it";};
in {
  inherit image release;
  vm = scripts "vm" "Boot the image under QEMU on a throw-away disk" [image];
  demo = scripts "demo" "A hub on the loopback, and a node of this image that enrols there" [image];
  flash = scripts "flash" "Write the image to a disk, provisioned, and verify it" [image];
  deploy = scripts "deploy" "Deploy the apps of this appliance to the hub of the current context" (
    if given.apps == null
    then refuse "apps" "is not set, and there is nothing to deploy" "name a folder of Compose files"
    else [given.apps]
  );
}
