//! `cairn context`: the hubs of this user.

use std::io::Read as _;

use crate::{
    args::{ContextAdd, ContextVerb},
    config::{Context, Secret, Store, read_text},
    connection::{parse_hub, read_ca},
    failure::Failure,
    render::ContextRow,
    screen,
};

/// The longest token read from standard input.
const MAX_TOKEN_BYTES: u64 = 16 << 10;

pub(super) fn run(verb: ContextVerb) -> Result<(), Failure> {
    let store = Store::of_user()?;
    match verb {
        ContextVerb::Add(args) => add(&store, args),
        ContextVerb::Use { name } => {
            let mut config = store.load()?;
            if !config.contexts.contains_key(&name) {
                return Err(unknown(&name));
            }
            config.current = Some(name);
            store.save(&config)
        }
        ContextVerb::Ls(output) => {
            let config = store.load()?;
            let rows: Vec<_> = config
                .contexts
                .into_iter()
                .map(|(name, context)| ContextRow {
                    current: config.current.as_ref() == Some(&name),
                    name,
                    hub: context.hub,
                })
                .collect();
            super::show_list(
                output.output,
                &rows,
                "no context yet: cairn context add NAME --hub URL --ca FILE …",
            )
        }
        ContextVerb::Rm { name } => {
            let mut config = store.load()?;
            if config.contexts.remove(&name).is_none() {
                return Err(unknown(&name));
            }
            config.current = config.current.filter(|current| *current != name);
            store.save(&config)?;
            store.forget(&name)
        }
    }
}

fn unknown(name: &str) -> Failure {
    Failure::not_found(format!("there is no context {name}")).cure("cairn context ls")
}

fn add(store: &Store, args: ContextAdd) -> Result<(), Failure> {
    let mut config = store.load()?;
    if config.contexts.contains_key(&args.name) && !args.replace {
        return Err(Failure::usage(format!("there is a context {} already", args.name))
            .cure("choose another name, or overwrite it with --replace"));
    }
    let hub = parse_hub(&args.hub, "--hub")?;
    let ca = match (&args.ca, hub.scheme()) {
        (Some(path), _) => Some(read_ca(path)?),
        (None, "http") => None,
        (None, _) => {
            return Err(Failure::usage("which CA to know the hub by is not said")
                .cure("add --ca FILE with the file that `cairn-hub init` wrote"));
        }
    };
    let token = match &args.token_file {
        Some(path) => Secret::parse(&read_text(path, "access token")?, &path.display().to_string())?,
        None => from_stdin()?,
    };
    // What is named in config.toml last is there already: a cut in between leaves no context without its token.
    store.write_token(&args.name, &token)?;
    if let Some(pem) = ca {
        store.write_ca(&args.name, &pem)?;
    }
    let before = config.contexts.insert(args.name.clone(), Context { hub: hub.to_string() });
    if before.is_some_and(|before| before.hub != hub.as_str()) {
        store.forget_trust(&args.name)?;
    }
    if config.current.is_none() {
        config.current = Some(args.name.clone());
    }
    store.save(&config)?;
    if config.current.as_deref() == Some(args.name.as_str()) {
        screen::note(&format!("{} is the current context; try: cairn node ls", args.name));
    } else {
        screen::note(&format!("to make it the current one: cairn context use {}", args.name));
    }
    Ok(())
}

fn from_stdin() -> Result<Secret, Failure> {
    let mut text = String::new();
    std::io::stdin().lock().take(MAX_TOKEN_BYTES).read_to_string(&mut text).map_err(|error| {
        Failure::usage(format!("cannot read the access token from standard input: {error}"))
    })?;
    Secret::parse(&text, "standard input")
}
