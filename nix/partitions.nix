# The disk of the NixOS flavour: the roles and labels of `ota/src/layout.rs`, with slots that a NixOS closure fits in.
{
  config,
  pkgs,
}: let
  version = config.system.image.version;
  uki = "${config.system.build.uki}/${config.system.boot.loader.ukiFile}";
  loader = "${pkgs.systemd}/lib/systemd/boot/efi/systemd-bootx64.efi";

  # The second slot, which the first update fills.
  emptySlot = type: size: {
    repartConfig = {
      Type = type;
      Label = "_empty";
      SizeMinBytes = size;
      SizeMaxBytes = size;
    };
  };
in {
  "10-esp" = {
    contents = {
      "/EFI/BOOT/BOOTX64.EFI".source = loader;
      "/EFI/Linux/cairn_${version}.efi".source = uki;
    };
    repartConfig = {
      Type = "esp";
      Format = "vfat";
      Label = "ESP";
      SizeMinBytes = "256M";
    };
  };

  "20-root-a" = {
    storePaths = [config.system.build.toplevel];
    repartConfig = {
      Type = "root";
      Format = "erofs";
      Label = "cairn_${version}";
      Verity = "data";
      VerityMatchKey = "root";
      SizeMinBytes = "2G";
      SizeMaxBytes = "2G";
    };
  };

  "21-root-a-verity" = {
    repartConfig = {
      Type = "root-verity";
      Label = "cairn_${version}_verity";
      Verity = "hash";
      VerityMatchKey = "root";
      SizeMinBytes = "64M";
      SizeMaxBytes = "64M";
    };
  };

  "30-root-b" = emptySlot "root" "2G";
  "31-root-b-verity" = emptySlot "root-verity" "64M";

  "40-data" = {
    repartConfig = {
      Type = "var";
      Format = "ext4";
      Label = "cairn-data";
      SizeMinBytes = "1G";
      GrowFileSystem = true;
    };
  };
}
