//! Files as NumPy and its friends write them.

/// An .npy file of format version 1.
pub(crate) fn npy(descr: &str, fortran: bool, shape: &str, data: &[u8]) -> Vec<u8> {
    let order = if fortran { "True" } else { "False" };
    let header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}");
    let padded = (10 + header.len() + 1).next_multiple_of(64) - 10;
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend(u16::try_from(padded).unwrap().to_le_bytes());
    file.extend(format!("{header:<width$}\n", width = padded - 1).into_bytes());
    file.extend(data);
    file
}

pub(crate) fn f32s(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

pub(crate) fn i64s(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A .safetensors file of these tensors: name, dtype, shape, data.
pub(crate) fn safetensors(tensors: &[(&str, &str, &[usize], Vec<u8>)]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, dtype, shape, data) in tensors {
        let described = serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [end, end + data.len()] });
        header.insert((*name).to_owned(), described);
        end += data.len();
    }
    let mut text = serde_json::Value::Object(header).to_string();
    text += &" ".repeat(text.len().next_multiple_of(8) - text.len());
    let mut file = u64::try_from(text.len()).unwrap().to_le_bytes().to_vec();
    file.extend(text.into_bytes());
    tensors.iter().for_each(|(_, _, _, data)| file.extend(data));
    file
}
