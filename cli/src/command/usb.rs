//! `cairn usb`: sticks.

use cairn_model::{
    Digest,
    enroll::EnrollState,
    media::{RECEIPT, Receipt},
};
use cairn_trust::{clock::Clock, fetch::Folder, keys::roots_fingerprint};
use jiff::Timestamp;

use crate::{
    args::UsbVerb,
    bundle::{
        place::{self, Purpose},
        stick::Stick,
        verify::{self, Roots, Verdict},
    },
    client::Client,
    failure::Failure,
    render::{self, text},
    screen,
};

pub(super) async fn run(
    connect: &impl Fn() -> Result<Client, Failure>,
    verb: UsbVerb,
) -> Result<(), Failure> {
    match verb {
        UsbVerb::Export(args) => {
            let purpose = if args.dry_run { Purpose::Plan } else { Purpose::Write };
            let place = place::find(&args.place, purpose)?;
            let done = super::usb_export::run(connect, args, &place).await;
            place.release(done)
        }
        UsbVerb::Import { place, accept_gap, output } => {
            let place = place::find(&place, Purpose::Read)?;
            let done = super::usb_import::run(connect, &place, accept_gap, output.output).await;
            place.release(done)
        }
        UsbVerb::Verify { place, roots } => {
            let roots = roots.map(|folder| Roots::read(&folder)).transpose()?;
            let place = place::find(&place, Purpose::Read)?;
            let done = match Stick::at(&place) {
                Ok(stick) => verify(&stick, roots).await,
                Err(failure) => Err(failure),
            };
            place.release(done)
        }
    }
}

async fn verify(stick: &Stick, roots: Option<Roots>) -> Result<(), Failure> {
    let folder = stick.reader().map_err(stick.failed("open", ""))?;
    let Some(receipt) = verify::receipt(&folder)? else {
        return Err(Failure::not_found(format!(
            "there is no {RECEIPT}: this is no stick of Cairn's, or its export was cut off"
        ))
        .cure("run the export again, or name the folder that the stick is mounted on"));
    };
    if receipt.nodes.iter().all(|node| node.state == EnrollState::Pending) {
        // Nobody has signed the receipt: that it names no member does not say that there is nothing for one.
        faultless(strays(stick, &folder, &receipt, roots.as_ref()))?;
        return screen::print(match receipt.nodes.is_empty() {
            true => "a blank stick: nothing is on it but room for requests to be enrolled\n",
            false => {
                "none of this stick's nodes was a member when it was written: nothing is to be verified\n"
            }
        });
    }
    let roots = match roots {
        Some(roots) => roots,
        None => own_roots(&folder, &receipt)?,
    };
    let (clock, sound) = (Clock::system_only(), Default::default());
    let verdict = verify::verify(stick, &folder, &receipt, &roots, clock, &sound).await?;
    screen::print(&render::usb::verdict(&verdict, &receipt, Timestamp::now()))?;
    faultless(verdict)
}

/// What is wrong with a stick that is for no member yet.
pub(super) fn strays(stick: &Stick, folder: &Folder, receipt: &Receipt, roots: Option<&Roots>) -> Verdict {
    let mut verdict = Verdict::default();
    verify::check_strays(stick, folder, receipt, roots, &mut verdict);
    verdict
}

/// Without roots from elsewhere the stick can only be held against itself.
fn own_roots(folder: &Folder, receipt: &Receipt) -> Result<Roots, Failure> {
    let roots = Roots::on_stick(folder, receipt).ok_or_else(|| {
        Failure::refused("the stick has no roots, so nothing on it can be verified")
            .cure("export to the stick again")
    })?;
    screen::note(&format!(
        "taking the stick's own roots, which says that it is whole, not whose it is: {}\n  compare this fingerprint with \
         `cairn trust roots`, or name its folder with --roots",
        roots_fingerprint(&roots.director, &roots.artifacts)
    ));
    Ok(roots)
}

/// Ends as a refusal that names each fault.
pub(super) fn faultless(verdict: Verdict) -> Result<(), Failure> {
    for note in &verdict.notes {
        screen::note(&text::clean(note));
    }
    let count = verdict.faults.len();
    if count == 0 {
        return Ok(());
    }
    let what = if count == 1 { "one fault" } else { "faults" };
    Err(Failure::refused(format!("{count} {what} on the stick; each is named above with its cure"))
        .problems(verdict.faults))
}

/// Digests of what a list of blobs names.
pub(super) fn digests<'a>(blobs: impl IntoIterator<Item = &'a cairn_model::media::MediaBlob>) -> Vec<Digest> {
    blobs.into_iter().map(|blob| blob.digest.clone()).collect()
}
