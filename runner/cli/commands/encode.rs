//! `sae-run encode`: texts or a data set through a model and its SAEs, to a file of active latents.

mod saes;

use crate::error::CliError;
use crate::show::progress;
use crate::show::table;
use crate::sweep::models::{fetch_weights, find_model};
use crate::sweep::named_data::{Named, NamedInputs};
use crate::sweep::paths::Folders;
use args::EncodeArgs;
use indicatif::ProgressBar;
use plan::{TrainConfig, apply_overrides};
use sae_files::FoundSae;
use saes::SaesToUse;
use serde_json::{Map, Value, json};
use std::io::{self, BufRead, BufReader, IsTerminal};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use train::{EncodeFormat, EncodeInput, EncodeRequest, EncodeSummary, TrainError};

/// Encodes and writes the file.
///
/// # Errors
/// No such SAEs, model, text or data, an SAE that does not fit the model, or a file that cannot be
/// written.
pub(crate) async fn encode(args: &EncodeArgs) -> Result<u8, CliError> {
    let format = format(&args.out)?;
    let saes = SaesToUse::find(args).await?;
    let config = apply_overrides(&saes.config, &settings(args, &saes)?)?;
    let (model_dir, input) = match args.input.dataset.is_some() {
        true => sequences(args, &config)?,
        false => texts(args, &config)?,
    };
    let request = EncodeRequest {
        model_dir,
        dtype: config.dtype,
        load_in_8bit: config.load_in_8bit,
        tokenizer_class: config.tokenizer_class,
        device: args.device.clone(),
        saes: saes.found,
        top: args.top.map(|top| top as usize),
        batch_tokens: args.batch_tokens as usize,
        out: args.out.clone(),
        format,
    };
    let summary = run(args, &request, input)?;
    print(args, &request.saes, &summary)
}

fn format(out: &Path) -> Result<EncodeFormat, CliError> {
    EncodeFormat::of_path(out).ok_or_else(|| {
        let message = format!("`{}` is neither .parquet nor .safetensors", out.display());
        CliError::input(message).with_hint("the end of the file's name says its format".to_owned())
    })
}

/// What was named, and what the SAEs' files say, under the names of settings.
fn settings(args: &EncodeArgs, saes: &SaesToUse) -> Result<Map<String, Value>, CliError> {
    let model = match &args.model {
        Some(model) => (model.clone(), args.revision.clone()),
        None => saes.model()?,
    };
    let named = Named {
        model,
        dtype: args.dtype.as_deref(),
        load_in_8bit: args.load_in_8bit,
        dataset: args.input.dataset.as_deref(),
        data: &args.data,
        tokenizer_class: args.tokenizer_class.as_deref(),
        ctx_len: args.ctx_len.map(|ctx_len| ctx_len as usize),
    };
    Ok(named.settings())
}

/// The model's folder, and the sequences of the data set.
fn sequences(args: &EncodeArgs, config: &TrainConfig) -> Result<(PathBuf, EncodeInput), CliError> {
    let inputs = NamedInputs::fetch(config, args.quiet)?;
    let input = EncodeInput::Sequences {
        tokens: inputs.tokens,
        most: args.max_examples,
    };
    Ok((inputs.model_dir, input))
}

/// The model's folder, and the texts.
fn texts(args: &EncodeArgs, config: &TrainConfig) -> Result<(PathBuf, EncodeInput), CliError> {
    let shelf = Folders::of_this_machine()?.models();
    let revision = config.revision.as_deref();
    let model = find_model(&config.model, revision, Path::new("."), &shelf)?;
    let texts: Lines = match &args.input.text_file {
        Some(path) => lines(path)?,
        None => Box::new(args.input.text.clone().into_iter().map(Ok)),
    };
    fetch_weights(&model, args.quiet)?;
    let ctx_len = args.ctx_len.map(|ctx_len| ctx_len as usize);
    Ok((model.dir, EncodeInput::Texts { texts, ctx_len }))
}

type Lines = Box<dyn Iterator<Item = Result<String, TrainError>>>;

/// The lines of a file, as they are read.
fn lines(path: &Path) -> Result<Lines, CliError> {
    let reader: Box<dyn BufRead> = match path == Path::new("-") {
        true => Box::new(BufReader::new(io::stdin())),
        false => {
            let file = files::open(path).map_err(|error| CliError::io("read", path, &error))?;
            Box::new(BufReader::new(file))
        }
    };
    let path = path.to_owned();
    Ok(Box::new(reader.lines().map(move |line| {
        line.map_err(|source| TrainError::Io {
            action: "read",
            path: path.clone(),
            source,
        })
    })))
}

fn run(
    args: &EncodeArgs,
    request: &EncodeRequest,
    input: EncodeInput,
) -> Result<EncodeSummary, CliError> {
    let bar = match io::stderr().is_terminal() && !args.quiet {
        true => ProgressBar::no_length(),
        false => ProgressBar::hidden(),
    };
    let n_sequences = match &input {
        EncodeInput::Texts { .. } => None,
        EncodeInput::Sequences { tokens, most } => {
            let n_sequences = tokens.n_sequences() as u64;
            Some(most.map_or(n_sequences, |most| most.min(n_sequences)))
        }
    };
    let bar = match n_sequences {
        Some(n_sequences) => {
            bar.set_length(n_sequences);
            bar.with_style(progress::style(
                "encoding {bar:30} {pos}/{len} sequences, {eta} left",
            ))
        }
        None => bar.with_style(progress::style("encoding, {pos} texts done")),
    };
    let summary = train::encode(request, input, &mut |n_done| {
        bar.set_position(n_done);
        ControlFlow::Continue(())
    })?;
    bar.finish_and_clear();
    Ok(summary.expect("nobody breaks it off"))
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
        return table::print(&format!("{object:#}\n"));
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
        "{table}{n_tokens} tokens of {} in `{}`\n",
        table::count(*n_sequences as usize, "sequence"),
        args.out.display()
    ))
}
