# What is tried on a hub and two nodes, as data: checks.nix makes a NixOS test of each. A step runs on one machine until it
# succeeds, or must fail; `says` is a part of what it must print.
{
  pinned-and-refused = [
    {
      on = "hub";
      run = "cairn context add lab --hub https://hub:8443 --ca /var/lib/cairn-hub/ca.pem --token-file /var/lib/cairn-hub/admin.token";
    }
    {
      on = "hub";
      run = "cairn node ls -o json";
    }
    # No CA of a public authority is asked: who does not pin the hub's own does not talk to it.
    {
      on = "node1";
      run = "curl --fail https://hub:8443/healthz";
      fails = true;
      says = "certificate";
    }
  ];

  enrols-and-outlives-its-hub = [
    {
      on = "hub";
      run = "cairn context add lab --hub https://hub:8443 --ca /var/lib/cairn-hub/ca.pem --token-file /var/lib/cairn-hub/admin.token";
    }
    {
      on = "hub";
      run = "cairn token create --reusable --auto-approve -o json | grep -o '\"secret\": *\"[^\"]*\"' | cut -d'\"' -f4 >/tmp/shared/token";
    }
    {
      on = "hub";
      run = "cp /var/lib/cairn-hub/ca.pem /tmp/shared/ca.pem";
    }
    {
      on = "node1";
      run = "systemctl restart cairnd";
    }
    {
      on = "node2";
      run = "systemctl restart cairnd";
    }
    {
      on = "hub";
      run = "test $(cairn node ls -o name | wc -l) = 2";
    }
    {
      on = "hub";
      run = "systemctl stop cairn-hub";
    }
    {
      on = "node2";
      run = "systemctl is-active cairnd";
      says = "active";
    }
  ];
}
