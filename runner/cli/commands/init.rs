//! `sae-run init`: a first sweep.

use crate::error::CliError;
use crate::show::sweep::print_plan;
use crate::show::table;
use crate::sweep::expand;
use crate::sweep::inputs::Inputs;
use crate::sweep::paths::{Folders, Near};
use args::{InitArgs, SweepArgs};
use plan::{ModelFacts, TrainConfig};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

/// Length and number of the sequences in a forward pass: the first that the data set fills.
const SHAPES: [(usize, usize); 4] = [(256, 8), (256, 2), (64, 4), (64, 1)];
/// Sequences that a first run trains on, at most.
const MAX_EXAMPLES: usize = 1024;

/// `sae-run init MODEL DATA`.
///
/// # Errors
/// A model or a data set that is not there or cannot be used; a file that is there already.
pub(crate) fn init(args: &InitArgs) -> Result<u8, CliError> {
    if args.out.extension().is_none_or(|end| end != "toml") {
        let message = format!("`{}` does not end in `.toml`", args.out.display());
        return Err(CliError::input(message).with_hint("name it `sweep.toml`".to_owned()));
    }
    let folders = Folders::of_this_machine()?;
    let dir = args.out.parent().unwrap_or(Path::new(""));
    let config = TrainConfig {
        model: args.model.clone(),
        dataset: args.dataset.clone(),
        ..TrainConfig::default()
    };
    let facts = Inputs::new(&Near::folder(dir), &folders)
        .facts(&config)?
        .clone();
    create(&args.out)?;
    let planned = SHAPES.iter().find_map(|shape| {
        let is_last = Some(shape) == SHAPES.last();
        match write_and_plan(args, &facts, *shape) {
            Err(error) if error.setting() == Some("batch_size") && !is_last => None,
            planned => Some(planned),
        }
    });
    let planned = planned.expect("the last shape has an answer");
    let plan = planned.inspect_err(|_| {
        let _ = fs::remove_file(&args.out);
    })?;
    let code = print_plan(&plan, "")?;
    let path = args.out.display();
    table::note(&format!(
        "wrote `{path}`; `sae-run {path}` trains it, `sae-run plan {path}` shows this plan again"
    ));
    Ok(code)
}

fn create(path: &Path) -> Result<(), CliError> {
    match File::create_new(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let message = format!("`{}` is there already", path.display());
            Err(CliError::input(message).with_hint("name another file with `--out`".to_owned()))
        }
        Err(error) => Err(CliError::io("create", path, &error)),
    }
}

/// Writes the sweep and plans it, so that what is wrong with model or data is found now.
fn write_and_plan(
    args: &InitArgs,
    facts: &ModelFacts,
    shape: (usize, usize),
) -> Result<plan::Plan, CliError> {
    let text = text(args, facts, shape);
    let written = File::create(&args.out).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| CliError::io("write", &args.out, &error))?;
    let sweep = SweepArgs {
        sweep: args.out.clone(),
        set: Vec::new(),
    };
    Ok(expand::expand(&sweep)?.plan)
}

fn text(args: &InitArgs, facts: &ModelFacts, (ctx_len, batch_size): (usize, usize)) -> String {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let (model, dataset) = (quoted(&args.model), quoted(&args.dataset));
    let block = quoted(&format!("{}.{}", facts.layers_name, facts.n_layers / 2));
    let block = format!("[[{block}]]");
    let ctx_len = ctx_len.min(facts.max_ctx_len);
    let path = args.out.display();
    format!(
        "\
# A sweep: `sae-run {path}` trains it; the same command again resumes it, or says that all is done.
# `sae-run plan {path}` shows the jobs and their memory. docs/settings.md has all settings.

[train]                          # what all jobs share
model = {model}
dataset = {dataset}
# text_column = \"text\"           # the column with the text, if it is called otherwise
ctx_len = {ctx_len:<22} # tokens of a sequence
batch_size = {batch_size:<19} # sequences in a forward pass
max_examples = {MAX_EXAMPLES:<17} # sequences to train on; without this line, all of the data set
eval_fraction = 0.05             # share of the sequences to evaluate on
save_every = 100                 # optimizer updates between two checkpoints
# optimizer = \"adam\"             # by default signum, as in sparsify
# lr = 5e-4                      # by default by the optimizer's law

[vary]                           # one job for each combination
k = [16, 32]                     # latents that are active on a token
expansion_factor = [8]           # latents per dimension of the activations
hookpoints = {block:<19} # modules to train on; `sae-run hookpoints {}` lists them

[launch]
device = \"auto\"                  # auto, cpu, cuda, cuda:N
",
        args.model
    )
}
