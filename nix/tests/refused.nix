# Options of `lib.appliance` that cannot work, each with a part of what must be said; and some that must not be refused.
# `./x test nix` evaluates them one by one.
let
  appliance = import ../appliance.nix {
    debian = {
      lockFile = "/lock";
      packages = [];
    };
    system = "x86_64-linux";
    cairn-image = "/cairn-image";
    inImage = "/bin";
    version = "0.1.0";
    scripts = name: _description: _parts: name;
  };
  hub = {
    url = "https://hub.example:8443";
    caFile = ../../templates/appliance/hub-ca.pem;
  };
  cases = {
    unknown-option = {
      options.netwrok = [];
      says = "option netwrok does not exist; known are apps, compatible";
    };
    version-of-words = {
      options.version = "new";
      says = "option version is no version; write numbers";
    };
    machines-with-spaces = {
      options.compatible = "Acme Box";
      says = "option compatible names no kind of machine; use 1 to 64";
    };
    hub-without-tls = {
      options.hub = hub // {url = "http://hub.example";};
      says = "option hub.url is no https:// address";
    };
    hub-without-trust-root = {
      options.hub = {inherit (hub) url;};
      says = "option hub.caFile is missing";
    };
    token-in-the-store = {
      options.hub = hub // {tokenFile = "/run/token";};
      says = "option hub.tokenFile would put a secret into the image";
    };
    label-of-two-lines = {
      options.labels.zone = "a\nb";
      says = "option labels has a value that is no line";
    };
    network-that-nobody-reads = {
      options.network = [./refused.nix];
      says = "option network names a file that systemd-networkd would not read";
    };
    apps-that-are-not-there = {
      options.apps = ../../templates/appliance/none;
      says = "option apps is a folder that does not exist";
    };
  };
in {
  says = builtins.mapAttrs (_: case: case.says) cases;
  value = builtins.mapAttrs (_: case: (appliance case.options).image.drvPath) cases;
  sound = map (options: (appliance options).image.drvPath) [
    {}
    {
      inherit hub;
      version = "1.2.3";
      labels."zone of \"it\"" = "b=c";
      network = [../../templates/appliance/10-lan.network];
      apps = ../../templates/appliance/apps;
      files."etc/motd" = ./refused.nix;
    }
  ];
}
