//! A text model from a spec and a file of parameters, as the command runs it: `cargo run --release --example transformer -- SPEC.json
//! PARAMS.safetensors TEXT`.
//!
//! The leaves of the spec look up the bytes of the text; its levels are some of `word`, `sentence` and `document`, with their own names as segments. A
//! word ends behind a space, a sentence behind a full stop and what follows up to the next word, and the text is one document.

use levelfold::{Bindings, Engine, Hierarchy, Segments, TensorView, TensorViewMut};
use levelfold_cpu::CpuBackend;
use safetensors::SafeTensors;
use std::error::Error;

/// Cuts behind every unit for which `ends` holds; the last one ends with the text.
fn cut<T>(units: &[T], ends: impl Fn(&T) -> bool) -> levelfold::Result<Segments> {
    let lengths: Vec<u64> = units.split_inclusive(ends).map(|segment| segment.len() as u64).collect();
    Segments::from_lengths(&lengths)
}

fn main() -> Result<(), Box<dyn Error>> {
    let [spec, params, text] = &std::env::args().skip(1).collect::<Vec<_>>()[..] else {
        return Err("usage: transformer SPEC.json PARAMS.safetensors TEXT".into());
    };
    let mut hierarchy = Hierarchy::from_json(&std::fs::read_to_string(spec)?)?;
    let text = std::fs::read(text)?;
    let words: Vec<&[u8]> = text.split_inclusive(u8::is_ascii_whitespace).collect();
    let sentences = cut(&words, |word| word.trim_ascii_end().ends_with(b"."))?;
    for name in hierarchy.unbound().map(str::to_owned).collect::<Vec<_>>() {
        let segments = match name.as_str() {
            "word" => cut(&text, u8::is_ascii_whitespace)?,
            "sentence" => sentences.clone(),
            _ => Segments::whole(sentences.len()),
        };
        hierarchy.bind(&name, &segments)?;
    }
    let prepared = Engine::new(CpuBackend::new()?).prepare(&hierarchy)?;
    let plan = prepared.plan();

    let file = std::fs::read(params)?;
    let tensors = SafeTensors::deserialize(&file)?;
    let (mut params, mut outputs) = (Vec::new(), Vec::new());
    for (_, buffer) in plan.inputs().filter(|(_, buffer)| buffer.dtype == levelfold::DType::F32) {
        let bytes = tensors.tensor(&buffer.name).map_err(|error| format!("{}: {error}", buffer.name))?.data();
        let numbers: Vec<f32> = bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect();
        params.push((&*buffer.name, numbers, [buffer.rows as usize, buffer.features as usize]));
    }
    for (_, buffer) in plan.outputs() {
        let shape = [buffer.rows as usize, buffer.features as usize];
        outputs.push((&*buffer.name, vec![0f32; shape[0] * shape[1]], shape));
    }
    let mut bindings = Bindings::new();
    for (_, ids) in plan.inputs().filter(|(_, buffer)| buffer.dtype == levelfold::DType::U8) {
        bindings.bind_input(&ids.name, TensorView::from_slice(&text, [text.len(), 1])?);
    }
    for (name, numbers, shape) in &params {
        bindings.bind_input(name, TensorView::from_slice(numbers, *shape)?);
    }
    for (name, numbers, shape) in &mut outputs {
        bindings.bind_output(name, TensorViewMut::from_slice(numbers, *shape)?);
    }
    let report = prepared.run(bindings)?;
    for (name, numbers, [rows, features]) in &outputs {
        println!("{name}: {rows} rows of {features}, the first begins {:?}", &numbers[..numbers.len().min(4)]);
    }
    println!("{} bytes of text in {:.1?}, arena {} MiB", text.len(), report.time, plan.totals.arena_bytes >> 20);
    Ok(())
}
