//! How a node becomes a member: its hub says so, or a grant on a stick. Either way both first roots are pinned, once.

use std::{future::pending, pin::pin, time::Duration};

use cairn_model::{
    enroll::{EnrollGrant, EnrollState},
    error::chain,
    local::LinkState,
    report::Severity,
};
use cairn_trust::{
    client::ClientError,
    keys::roots_fingerprint,
    node::{UpdateError, Verifier},
    store::StoreError,
};
use tokio::time::sleep;
use url::Url;

use super::{Joined, MediaOutcome, MediaVisit, RETRY, Task, Visits, words};
use crate::{
    backoff::{Backoff, random},
    config::{HubSettings, TokenFile},
    identity,
    ledger::Enrolment,
    report::enrol_request,
    source::{HubClient, HubTls, SourceError},
};

/// First and longest pause between two looks whether an operator has approved.
const PENDING: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// Why a grant did not make the node a member.
enum NotJoined {
    /// Its roots are not those that the node has, or is told to expect.
    OtherFleet(String),
    /// Something failed on the way.
    Failed(String),
}

fn senseless(cause: String) -> SourceError {
    SourceError::Garbage { what: "enrolment", cause }
}

impl Task {
    /// What enrolment gave, now or earlier, and the stick that brought it: it has more to give.
    pub(super) async fn membership(&self, visits: &mut Visits) -> (Enrolment, Option<Joined>) {
        if let Some(enrolment) = self.remembered().await {
            return (enrolment, None);
        }
        let mut enrolling = pin!(self.enrol());
        loop {
            // Both arms are cancel-safe: what is pinned goes on, a channel keeps what was not received. What enrolling says
            // of itself comes before what a stick makes of it.
            tokio::select! {
                biased;
                enrolment = &mut enrolling => return (enrolment, None),
                visit = visits.next() => {
                    // The hub is gone on with while the stick is read, which may take its time. Both pin the same store, once:
                    // where it is the hub's roots first, the stick's must be the same.
                    let granted = tokio::select! {
                        biased;
                        enrolment = &mut enrolling => {
                            Ok((enrolment, "the hub has just made this node a member".to_owned()))
                        }
                        granted = self.granted(&visit) => granted,
                    };
                    match granted {
                        Ok((enrolment, note)) => return (enrolment, Some(Joined { visit, note })),
                        Err(outcome) => visit.answer(outcome),
                    }
                }
            }
        }
    }

    async fn remembered(&self) -> Option<Enrolment> {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            match self.ledger.enrolment().await {
                Ok(Some(enrolment)) if enrolment.node == self.node => return Some(self.current(enrolment)),
                Ok(Some(other)) => {
                    tracing::warn!(was = %other.node, is = %self.node, "the node's key has changed; enrolling as a new node");
                    return None;
                }
                Ok(None) => return None,
                Err(e) => {
                    self.say(LinkState::Offline, Some(chain(&e)));
                    sleep(backoff.after_failure(random())).await;
                }
            }
        }
    }

    /// The configuration wins over what was true at enrolment: a hub may move, and its CA may be renewed.
    fn current(&self, mut enrolment: Enrolment) -> Enrolment {
        if let Some(hub) = &self.config.hub {
            enrolment.hub = Some(hub.url.clone());
            if let Some(ca) = &hub.ca_pem {
                enrolment.ca_pem = Some(ca.clone());
            }
        }
        let address = enrolment.hub.as_ref().map(Url::to_string);
        self.status.send_modify(|status| status.hub = address);
        enrolment
    }

    async fn enrol(&self) -> Enrolment {
        let (hub, ca_pem, token) = match &self.config.hub {
            Some(HubSettings { url, ca_pem: Some(ca), token: Some(token) }) => (url, ca, token),
            Some(HubSettings { ca_pem, .. }) => {
                let (what, credential) = match ca_pem {
                    None => ("the hub's CA", "cairn.hub-ca"),
                    Some(_) => ("an enrolment token", "cairn.enroll-token"),
                };
                let problem = format!(
                    "{what} is missing; give it as credential {credential} or in cairnd.toml and restart"
                );
                self.say(LinkState::Enrolling, Some(problem));
                return pending().await;
            }
            None => {
                let problem = "no hub is configured; give the credential cairn.hub or hub.url in cairnd.toml, or plug in \
                               a stick that `cairn usb export` has written";
                self.say(LinkState::Unconfigured, Some(problem.to_owned()));
                return pending().await;
            }
        };
        let mut retry = Backoff::new(RETRY.0, RETRY.1);
        let mut waiting = Backoff::new(PENDING.0, PENDING.1);
        let mut known = false;
        loop {
            let tls = HubTls { ca_pem: ca_pem.clone(), clock: self.config.clock };
            let answer = match HubClient::build(hub.clone(), &tls, self.config.key.clone()) {
                Ok(client) => self.ask(&client, token, known).await,
                Err(e) => Err(e.to_string()),
            };
            let admitted =
                answer.and_then(|grant| self.admitted(grant).map_err(|cause| senseless(cause).to_string()));
            let pause = match admitted {
                Ok(Some(enrolment)) => match self.remember(&enrolment).await {
                    Ok(_) => return enrolment,
                    Err(NotJoined::OtherFleet(problem) | NotJoined::Failed(problem)) => {
                        self.say(LinkState::Enrolling, Some(problem));
                        retry.after_failure(random())
                    }
                },
                Ok(None) => {
                    (known, retry) = (true, Backoff::new(RETRY.0, RETRY.1));
                    self.say(LinkState::Pending, Some(format!("waits for an operator: {}", self.approve())));
                    waiting.after_failure(random())
                }
                Err(e) => {
                    // A hub that forgot the node gets the whole request again.
                    known = false;
                    self.say(LinkState::Enrolling, Some(format!("not enrolled: {e}")));
                    retry.after_failure(random())
                }
            };
            sleep(pause).await;
        }
    }

    /// What an operator types, and compares.
    fn approve(&self) -> String {
        let fingerprint = identity::fingerprint(&self.config.key.public());
        format!("`cairn node approve {}` (fingerprint {fingerprint})", self.node)
    }

    async fn ask(&self, client: &HubClient, token: &TokenFile, known: bool) -> Result<EnrollGrant, String> {
        let answer = if known {
            client.enrollment().await
        } else {
            // As it is now: whoever replaces one that was refused need not restart anything.
            let token = token.read().map_err(|e| chain(&e))?;
            let jws = enrol_request(&self.config.key, &self.config.facts, &token)?;
            client.enroll(jws).await
        };
        if answer.as_ref().is_ok() || answer.as_ref().is_err_and(SourceError::is_answer) {
            self.heard();
        }
        answer.map_err(|e| e.to_string())
    }

    /// What a grant means: in, not yet, or nonsense.
    fn admitted(&self, grant: EnrollGrant) -> Result<Option<Enrolment>, String> {
        if grant.node != self.node {
            return Err(format!("it names node {}, this is {}", grant.node, self.node));
        }
        match (grant.state, grant.director_root, grant.artifacts_root) {
            (EnrollState::Pending, _, _) => Ok(None),
            (EnrollState::Approved, Some(director_root), Some(artifacts_root)) => Ok(Some(Enrolment {
                hub: self.config.hub.as_ref().map(|hub| hub.url.clone()),
                ca_pem: self.config.hub.as_ref().and_then(|hub| hub.ca_pem.clone()),
                node: grant.node,
                director_root,
                artifacts_root,
            })),
            (EnrollState::Approved, _, _) => Err("an approved node needs both roots".to_owned()),
        }
    }

    /// Pins the roots, then remembers: a power cut in between repeats the pinning, which is nothing. Says what people should
    /// compare.
    async fn remember(&self, enrolment: &Enrolment) -> Result<String, NotJoined> {
        let director = enrolment.director_root.get().as_bytes();
        let artifacts = enrolment.artifacts_root.get().as_bytes();
        let fingerprint = roots_fingerprint(director, artifacts);
        if let Some(expected) = &self.config.roots_sha256
            && fingerprint.replace(' ', "") != *expected
        {
            return Err(NotJoined::OtherFleet(format!(
                "the fleet's roots have the fingerprint {fingerprint}, and trust.roots_sha256 expects another; compare it \
                 with `cairn trust roots` on the right hub"
            )));
        }
        Verifier::init(&self.config.trust_dir, director, artifacts).map_err(|e| match e {
            UpdateError::Director(ClientError::Store(StoreError::Occupied { .. }))
            | UpdateError::Artifacts(ClientError::Store(StoreError::Occupied { .. })) => {
                NotJoined::OtherFleet(chain(&e))
            }
            e => NotJoined::Failed(chain(&e)),
        })?;
        self.ledger.set_enrolment(enrolment).await.map_err(|e| NotJoined::Failed(chain(&e)))?;
        let how = match &enrolment.hub {
            Some(hub) => format!("enrolled with {hub}"),
            None => "enrolled by stick".to_owned(),
        };
        tracing::info!(node = %self.node, roots = fingerprint, "{how}");
        let message = format!(
            "{how}; the fleet's roots have the fingerprint {fingerprint}, compare it with `cairn trust roots`"
        );
        self.reporter.event(Severity::Info, "enrolled", message.clone()).await;
        Ok(message)
    }

    /// Looks for a grant on a stick: trust on first use, by whoever can touch the machine.
    async fn granted(&self, visit: &MediaVisit) -> Result<(Enrolment, String), MediaOutcome> {
        // Whoever stands before the machine must not be quicker than the hub that it was made for.
        if let (Some(hub), None) = (&self.config.hub, &self.config.roots_sha256) {
            let text = format!(
                "this node becomes a member by its hub {}, and by stick only where trust.roots_sha256 names the fleet: set that \
                 (see `cairn trust roots`), or let the hub through",
                hub.url
            );
            self.refuse(None, &text).await;
            return Err(MediaOutcome::refused(None, text));
        }
        let grant = match visit.source.grant().await {
            Ok(Some(grant)) => grant,
            Ok(None) => return Err(self.asks()),
            Err(e) => {
                if !e.is_answer() || !visit.source.is_there().await {
                    return Err(MediaOutcome { member: false, ..self.broken(e.to_string()).await });
                }
                let text = format!(
                    "what lies on the stick as this node's grant is none ({}); export to it again, or to another one",
                    chain(&e)
                );
                self.refuse(None, &text).await;
                return Err(MediaOutcome { may_write: true, ..MediaOutcome::refused(None, text) });
            }
        };
        let (attack, text) = match self.admitted(grant) {
            Ok(Some(enrolment)) => match self.remember(&enrolment).await {
                Ok(note) => return Ok((self.current(enrolment), note)),
                Err(NotJoined::OtherFleet(cause)) => {
                    (Some(words::WRONG_FLEET), format!("the stick is of another fleet: {cause}"))
                }
                Err(NotJoined::Failed(cause)) => (None, format!("the stick's grant is not taken: {cause}")),
            },
            Ok(None) => return Err(self.asks()),
            Err(cause) => {
                (None, format!("the stick's grant for this node makes no sense ({cause}); export it again"))
            }
        };
        self.refuse(attack, &text).await;
        // Another fleet has no use for this node's request.
        let may_write = attack.is_none();
        Err(MediaOutcome { may_write, ..MediaOutcome::refused(attack.map(str::to_owned), text) })
    }

    /// Not a member, and the stick does not make it one.
    fn asks(&self) -> MediaOutcome {
        let note = format!(
            "this node is not a member yet: take the stick to the hub, `cairn usb import`, {}, `cairn usb export`, and plug \
             it in again",
            self.approve()
        );
        if self.config.hub.is_none() {
            self.say(LinkState::Enrolling, Some(note.clone()));
        }
        MediaOutcome { may_write: true, notes: vec![note], ..MediaOutcome::default() }
    }
}
