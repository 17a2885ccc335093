# A hub and a node on one machine, with every option set.
{
  services.cairn.hub = {
    enable = true;
    names = ["hub.example" "hub"];
    addresses = ["192.0.2.7" "2001:db8::7"];
    address = "::";
    port = 443;
    openFirewall = true;
    operatorKeys = "/var/lib/cairn-operator-keys";
    settings.max_uploads = 16;
  };
  services.cairn.node = {
    enable = true;
    hub = {
      url = "https://hub.example";
      caFile = "/etc/hub-ca.pem";
      enrollTokenFile = "/run/keys/cairn-enroll-token";
    };
    labels = {
      zone = "berlin";
      rack = "7";
    };
    media.enable = true;
    networkRange = "10.90.0.0/16";
    settings.log.level = "debug";
  };
}
