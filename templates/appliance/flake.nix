{
  description = "Our appliance: Cairn with our hub, our network and our apps";

  inputs.cairn.url = "git+https://git.example/cairn"; # where you have Cairn's repository

  outputs = {cairn, ...}: let
    ours = cairn.lib.appliance {
      version = "1.0.0"; # of the OS: a higher one for each release
      compatible = "acme-box"; # nodes take only releases with this string
      hub = {
        url = "https://hub.example:8443";
        caFile = ./hub-ca.pem; # from `cairn-hub init`
      };
      labels.site = "acme";
      network = [./10-lan.network];
      apps = ./apps;
    };
  in {
    packages.x86_64-linux = {inherit (ours) image release;};
    apps.x86_64-linux = {inherit (ours) vm flash deploy;};
  };
}
