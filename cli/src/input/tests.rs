use super::*;
use std::io::Write;

/// An .npy file of this version, header text and data.
fn npy(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = npy::MAGIC.to_vec();
    file.extend([version, 0]);
    // Padded, so that data begins at a multiple of 64.
    let prefix = if version == 1 { 10 } else { 12 };
    let padded = (prefix + header.len() + 1).next_multiple_of(64) - prefix;
    match version {
        1 => file.extend(u16::try_from(padded).unwrap().to_le_bytes()),
        _ => file.extend(u32::try_from(padded).unwrap().to_le_bytes()),
    }
    file.extend(format!("{header:<width$}\n", width = padded - 1).into_bytes());
    file.extend(data);
    file
}

fn open(name: &str, content: &[u8]) -> Result<FileArray, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    File::create(&path).unwrap().write_all(content).unwrap();
    // The map outlives the name of the file.
    FileArray::open(&path, None, "x")
}

fn error_of(name: &str, content: &[u8]) -> String {
    match open(name, content) {
        Ok(_) => panic!("{name} should be refused"),
        Err(error) => error.to_string(),
    }
}

fn floats(count: u8) -> Vec<u8> {
    (0..count).flat_map(|value| f32::from(value).to_le_bytes()).collect()
}

#[test]
fn every_version_and_order_is_borrowed() {
    for version in 1..=3 {
        let c = open("c.npy", &npy(version, "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }", &floats(6))).unwrap();
        let view = c.view().unwrap();
        assert_eq!((view.dtype(), view.shape(), c.copied_bytes()), (DType::F32, [3, 2], 0));
        assert_eq!((view.get::<f32>(1, 0), view.get::<f32>(2, 1)), (2.0, 5.0));
        let f = open("f.npy", &npy(version, "{'shape': (3L, 2L), \"fortran_order\": True, 'descr': '<f4'}", &floats(6))).unwrap();
        let view = f.view().unwrap();
        assert_eq!((view.shape(), view.layout().strides, f.copied_bytes()), ([3, 2], [1, 3], 0));
        assert_eq!((view.get::<f32>(1, 0), view.get::<f32>(2, 1)), (1.0, 5.0));
    }
}

#[test]
fn one_axis_is_one_feature_and_no_rows_are_fine() {
    let ids = open("i.npy", &npy(1, "{'descr': '|u1', 'fortran_order': False, 'shape': (4,), }", &[1, 2, 3, 4])).unwrap();
    assert_eq!((ids.view().unwrap().shape(), ids.rows()), ([4, 1], 4));
    let empty = open("e.npy", &npy(1, "{'descr': '<f2', 'fortran_order': False, 'shape': (0, 9), }", &[])).unwrap();
    assert_eq!((empty.view().unwrap().shape(), empty.view().unwrap().dtype()), ([0, 9], DType::F16));
}

#[test]
fn segments_come_in_every_form_and_width() {
    let of = |descr: &str, shape: &str, order: &str, data: &[u8]| {
        open("s.npy", &npy(1, &format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}"), data)).unwrap()
    };
    let wanted = Segments::from_lengths(&[2, 0, 1]).unwrap();
    let long = |values: &[i64]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let offsets = of("<i8", "(4,)", "False", &long(&[0, 2, 2, 3]));
    assert_eq!(offsets.segments(SegmentForm::Offsets, Some(3)).unwrap(), wanted);
    assert_eq!(offsets.segments(SegmentForm::Offsets, None).unwrap(), wanted);
    assert_eq!(of("<u8", "(3,)", "False", &long(&[2, 0, 1])).segments(SegmentForm::Lengths, None).unwrap(), wanted);
    assert_eq!(of("|i1", "(3,)", "False", &[2, 0, 1]).segments(SegmentForm::Lengths, None).unwrap(), wanted);
    assert_eq!(of("<i2", "(3,)", "False", &[0, 0, 0, 0, 2, 0]).segments(SegmentForm::Ids { count: 3 }, None).unwrap(), wanted);
    assert_eq!(of("<u2", "(2,)", "False", &[2, 0, 2, 0]).segments(SegmentForm::Boundaries, Some(3)).unwrap(), wanted);
    let pairs = [0, 2, 2, 2, 2, 3];
    assert_eq!(of("<i8", "(3, 2)", "False", &long(&pairs)).segments(SegmentForm::Ranges, Some(3)).unwrap(), wanted);
    let columns = [0, 2, 2, 2, 2, 3];
    assert_eq!(of("<i8", "(3, 2)", "True", &long(&columns)).segments(SegmentForm::Ranges, Some(3)).unwrap(), wanted);
    let partial = offsets.segments(SegmentForm::PartialOffsets, Some(5)).unwrap();
    assert_eq!((partial.rows(), partial.total_rows()), (5, 3));
    assert!(offsets.segments(SegmentForm::Offsets, Some(5)).unwrap_err().to_string().contains("2 would be dropped"));
    assert!(offsets.segments(SegmentForm::Ranges, Some(5)).unwrap_err().to_string().contains("shape [n, 2]"));
    let floats = of("<f4", "(1,)", "False", &[0; 4]);
    assert!(floats.segments(SegmentForm::Offsets, None).unwrap_err().to_string().contains("segments are integers [dtype]"));
    let huge = of("<u8", "(1,)", "False", &[255; 8]);
    assert!(huge.segments(SegmentForm::Lengths, None).unwrap_err().to_string().contains("[overflow]"));
}

#[test]
fn headers_are_believed_as_far_as_the_file_reaches() {
    let good = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }";
    let whole = npy(1, good, &floats(6));
    for cut in 1..whole.len() {
        assert!(open("cut.npy", &whole[..cut]).is_err(), "cut to {cut} bytes");
    }
    let claims = |header: &str| error_of("x.npy", &npy(1, header, &floats(6)));
    let gigabytes = claims("{'descr': '<f4', 'fortran_order': False, 'shape': (4000000000, 2), }");
    assert!(gigabytes.contains("takes 32000000000 bytes, but 24 bytes follow it; the file was cut short [file]"), "{gigabytes}");
    assert!(claims("{'descr': '<f4', 'fortran_order': False, 'shape': (18446744073709551615, 2), }").contains("[overflow]"));
    assert!(claims("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }").contains("holds more than one array"));
    let mut long = npy(2, good, &floats(6));
    long[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    let error = error_of("x.npy", &long);
    assert!(error.contains("its header claims 4294967295 bytes, but the file has"), "{error}");
}

#[test]
fn what_is_not_a_plain_array_is_refused() {
    let of =
        |descr: &str| error_of("x.npy", &npy(1, &format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (6,), }}"), &floats(6)));
    assert!(of("'>f4'").contains("big-endian; convert it, for instance with array.astype('<f4') [dtype]"));
    assert!(
        of("'<c8'").contains("[dtype]") && of("'O'").contains("[dtype]") && of("''").contains("[dtype]") && of("'é'").contains("[dtype]")
    );
    assert!(of("[('a', '<f4')]").contains("not one of a plain array"));
    let ranks =
        |shape: &str| error_of("x.npy", &npy(1, &format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"), &floats(6)));
    assert!(ranks("(1, 2, 3)").contains("it has 3 axes, shape [1, 2, 3]") && ranks("(1, 2, 3)").contains("[rank]"));
    assert!(ranks(&"(".repeat(50_000)).contains("not one of a plain array"));
    let hostile = "{'descr': '<f4', 'descr': '<f8', 'fortran_order': False, 'shape': (6,)}";
    assert!(error_of("x.npy", &npy(1, hostile, &floats(6))).contains("not one of a plain array"));
    assert!(error_of("x.npy", &npy(9, "{}", &[])).contains(".npy version 9.0; versions 1 to 3 are read"));
    assert!(error_of("x.npy", b"hello").contains("does not begin as an .npy file does"));
    assert!(error_of("x.txt", b"hello, this is text").contains("neither an .npy nor a valid .safetensors file"));
    assert!(error_of("x.npy", b"").contains("it is empty"));
}

/// A .safetensors file of one f32 tensor, whose data begins at this residue modulo 4.
fn safetensors(residue: usize) -> Vec<u8> {
    let mut header = r#"{"x":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}}"#.to_owned();
    while (8 + header.len()) % 4 != residue {
        header.push(' ');
    }
    let mut file = u64::try_from(header.len()).unwrap().to_le_bytes().to_vec();
    file.extend(header.into_bytes());
    file.extend(floats(2));
    file
}

#[test]
fn tensors_are_borrowed_where_they_are_aligned() {
    for (residue, copied) in [(0, 0), (1, 8), (2, 8), (3, 8)] {
        let array = open("x.safetensors", &safetensors(residue)).unwrap();
        assert_eq!((array.copied_bytes(), array.view().unwrap().get::<f32>(1, 0)), (copied, 1.0), "{residue}");
    }
    let whole = safetensors(0);
    for cut in 1..whole.len() {
        assert!(open("x.safetensors", &whole[..cut]).is_err(), "cut to {cut} bytes");
    }
    let mut claim = whole.clone();
    claim[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(error_of("x.safetensors", &claim).contains("[file]"));
}
