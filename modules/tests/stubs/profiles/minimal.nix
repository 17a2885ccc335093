# Stands for NixOS's profile of the same name.
{}
