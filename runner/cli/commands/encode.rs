//! `sae-run encode`: texts or a data set through a model and its SAEs, to a file of active latents.

mod saes;

use crate::error::CliError;
use crate::run::worker_program;
use crate::show::{json, progress, table};
use crate::sweep::models::{
    MODEL_KEYS, ModelDirs, ModelName, SECOND_MODEL_KEYS, Search, fetch_weights, find_model,
};
use crate::sweep::named_data::{Named, NamedInputs, cached, model_use};
use crate::sweep::paths::{Folders, Near};
use args::EncodeArgs;
use plan::{
    EncodeFormat, EncodeInput, EncodeSummary, EncodeTask, FoundSae, Task, Texts, TrainConfig,
    apply_overrides,
};
use saes::SaesToUse;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Encodes and writes the file.
///
/// # Errors
/// No such SAEs, model, text or data, an SAE that does not fit the model, or a file that cannot be
/// written.
pub(crate) async fn encode(args: &EncodeArgs) -> Result<u8, CliError> {
    let format = format(&args.out)?;
    let saes = SaesToUse::find(args).await?;
    let config = apply_overrides(&saes.config, &settings(args, &saes)?)?;
    let (models, input, n_sequences) = if args.input.dataset.is_some() {
        sequences(args, &config)?
    } else {
        texts(args, &config)?
    };
    let task = EncodeTask {
        model: model_use(models, &args.device, &config),
        input,
        saes: saes.found.clone(),
        top: args.top.map(|top| top as usize),
        batch_tokens: args.batch_tokens as usize,
        out: args.out.clone(),
        format,
    };
    let summary = run(args, task, n_sequences)?;
    print(args, &saes.found, &summary)
}

fn format(out: &Path) -> Result<EncodeFormat, CliError> {
    EncodeFormat::of_path(out).ok_or_else(|| {
        let message = format!("`{}` is neither .parquet nor .safetensors", out.display());
        CliError::input(message)
            .with_hint("the extension of the file's name determines its format".to_owned())
    })
}

/// What was named, and what the SAEs' files say, under the names of settings.
fn settings(args: &EncodeArgs, saes: &SaesToUse) -> Result<Map<String, Value>, CliError> {
    let (model, second) = match &args.model {
        Some(model) => (ModelName::typed(model, args.revision.as_deref()), None),
        None => saes.models()?,
    };
    let (name, revision) = (&args.crosscoder_model, &args.crosscoder_revision);
    let typed = ModelName::if_typed(name.as_deref(), revision.as_deref());
    let named = Named {
        model,
        second: typed.or(second),
        dtype: args.dtype.as_deref(),
        load_in_8bit: args.load_in_8bit,
        dataset: args.input.dataset.as_deref(),
        data: &args.data,
        tokenizer_class: args.tokenizer_class.as_deref(),
        ctx_len: args.ctx_len.map(|ctx_len| ctx_len as usize),
    };
    Ok(named.settings())
}

/// The models' folders, what goes through them, and how many sequences that is, if it is known.
type Source = (ModelDirs, EncodeInput, Option<u64>);

fn sequences(args: &EncodeArgs, config: &TrainConfig) -> Result<Source, CliError> {
    let inputs = NamedInputs::fetch(config, args.quiet)?;
    let n_sequences = inputs.tokens.n_sequences() as u64;
    let most = args.max_examples;
    let input = EncodeInput::Sequences {
        tokens: cached(&inputs.tokens)?,
        most,
    };
    let n_sequences = most.map_or(n_sequences, |most| most.min(n_sequences));
    Ok((inputs.models, input, Some(n_sequences)))
}

fn texts(args: &EncodeArgs, config: &TrainConfig) -> Result<Source, CliError> {
    let shelf = Folders::of_this_machine()?.models();
    let near = Near::folder(Path::new("."));
    let find = |name: &ModelName, keys| find_model(name, keys, Search::from(&near, &shelf));
    let model = find(&ModelName::of(config), MODEL_KEYS)?;
    let second = ModelName::of_second(config).map(|name| find(&name, SECOND_MODEL_KEYS));
    let second = second.transpose()?;
    let texts = match &args.input.text_file {
        Some(path) if path == Path::new("-") => Texts::StandardInput,
        Some(path) => {
            // Before anything is downloaded.
            files::open(path).map_err(|error| CliError::io("read", path, &error))?;
            Texts::File(path.clone())
        }
        None => Texts::Given(args.input.text.clone()),
    };
    for model in [Some(&model), second.as_ref()].into_iter().flatten() {
        fetch_weights(model, args.quiet)?;
    }
    let input = EncodeInput::Texts {
        texts,
        tokenizer_class: config.tokenizer_class,
        ctx_len: args.ctx_len.map(|ctx_len| ctx_len as usize),
    };
    let models = ModelDirs {
        first: model.dir,
        second: second.map(|second| second.dir),
    };
    Ok((models, input, None))
}

fn run(
    args: &EncodeArgs,
    task: EncodeTask,
    n_sequences: Option<u64>,
) -> Result<EncodeSummary, CliError> {
    let template = match n_sequences {
        Some(_) => "encoding {bar:30} {pos}/{len} sequences, {eta} left",
        None => "encoding, {pos} texts done",
    };
    let bar = progress::bar(template, args.quiet);
    bar.set_length(n_sequences.unwrap_or(0));
    let summary = worker_program::run(&Task::Encode(task), &mut |n_done, _| {
        bar.set_position(n_done);
    })?;
    bar.finish_and_clear();
    Ok(summary)
}

fn print(args: &EncodeArgs, saes: &[FoundSae], summary: &EncodeSummary) -> Result<u8, CliError> {
    let EncodeSummary {
        n_sequences,
        n_tokens,
        n_rows,
    } = summary;
    let of_sae = saes.iter().zip(n_rows);
    if args.json {
        let saes = of_sae.map(|(sae, n_rows)| json!({"sae": sae.name, "n_rows": n_rows}));
        let object = json!({
            "file": args.out,
            "n_sequences": n_sequences,
            "n_tokens": n_tokens,
            "saes": saes.collect::<Vec<_>>(),
        });
        return json::print(&object);
    }
    let rows = of_sae.map(|(sae, n_rows)| {
        let per_token = *n_rows as f64 / (*n_tokens).max(1) as f64;
        vec![
            sae.name.clone(),
            n_rows.to_string(),
            format!("{per_token:.1}"),
        ]
    });
    let header = ["SAE", "active latents", "per token"];
    let table = table::render(&header, rows.collect(), 1);
    table::print(&format!(
        "{table}{} of {} in `{}`\n",
        table::count(*n_tokens as usize, "token"),
        table::count(*n_sequences as usize, "sequence"),
        args.out.display()
    ))
}
