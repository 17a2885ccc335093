# The same for nixosModules.appliance.
{
  version-of-words = {
    module.cairn.appliance.version = "new";
    says = "cairn.appliance.version is no version";
  };
  machines-with-spaces = {
    module.cairn.appliance.compatible = "Acme Box";
    says = "cairn.appliance.compatible names no kind of machine";
  };
  somebody-could-log-in = {
    module.services.openssh.enable = true;
    says = "services.openssh.enable would let somebody log in";
  };
  root-of-ones-own = {
    module = {lib, ...}: {fileSystems."/".fsType = lib.mkForce "ext4";};
    says = "fileSystems.\"/\" is not the verified root";
  };
  data-of-some-other-disk = {
    module = {lib, ...}: {fileSystems."/var".device = lib.mkForce "/dev/disk/by-partlabel/cairn-data";};
    says = "is not on the disk that was booted";
  };
  machine-without-a-boot-loader-of-ours = {
    module = {lib, ...}: {nixpkgs.hostPlatform = lib.mkForce "aarch64-linux";};
    says = "nixpkgs.hostPlatform is not x86_64-linux";
  };
}
