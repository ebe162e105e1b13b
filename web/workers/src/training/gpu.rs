//! WebGPU: opening a device, and hearing of its errors and its loss.

use std::sync::{Arc, OnceLock};

use burn::tensor::Device;
use burn::tensor::wgpu::{WgpuSetup, wgpu};
use hydra_playground::messages::training::DeviceInfo;
use js_sys::{Function, Object, Promise, Reflect};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

/// Hears what happens to the device of a generation: every device that is opened gets the next number.
pub type Listener = fn(u32, String);

/// An open device.
pub struct Gpu {
    /// Where tensors live.
    pub device: Device,
    /// What the page is told of it.
    pub info: DeviceInfo,
    /// Its number.
    pub generation: u32,
    handle: wgpu::Device,
    lost: Arc<OnceLock<String>>,
}

impl Gpu {
    /// Why it was lost, if it was.
    pub fn lost(&self) -> Option<&str> {
        self.lost.get().map(String::as_str)
    }

    /// Destroys it, for good.
    pub fn destroy(&self) {
        self.handle.destroy();
    }
}

/// Opens a device. Every call opens a new one, which a lost device needs.
///
/// # Errors
/// Why there is none, in words for the page.
pub async fn open(generation: u32, on_lost: Listener, on_error: Listener) -> Result<Gpu, String> {
    let info = describe().await?;
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::BROWSER_WEBGPU,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let adapter = instance
        .request_adapter(&wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..wgpu::RequestAdapterOptions::default()
        })
        .await
        .map_err(|error| format!("the browser offers no WebGPU adapter ({error})"))?;
    // Features and limits as Burn asks for them where it opens the device itself.
    let (handle, queue) = adapter
        .request_device(&wgpu::DeviceDescriptor {
            required_features: adapter.features().difference(wgpu::Features::MAPPABLE_PRIMARY_BUFFERS),
            required_limits: adapter.limits(),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..wgpu::DeviceDescriptor::default()
        })
        .await
        .map_err(|error| format!("the WebGPU adapter gives no device ({error})"))?;
    let backend = wgpu::Backend::BrowserWebGpu;
    let setup = WgpuSetup { instance, adapter, device: handle.clone(), queue, backend };
    let device = Device::wgpu_options().setup(setup).init().map_err(|error| error.to_string())?;

    // After Burn, whose own handler of errors panics.
    handle.on_uncaptured_error(Arc::new(move |error: wgpu::Error| on_error(generation, error.to_string())));
    let lost = Arc::new(OnceLock::new());
    let reason = Arc::clone(&lost);
    handle.set_device_lost_callback(move |_, message| {
        let message = message.trim_end_matches('.').to_owned();
        // A device is lost once.
        let _ = reason.set(message.clone());
        on_lost(generation, message);
    });
    Ok(Gpu { device, info, generation, handle, lost })
}

/// What the adapter calls itself, and whether it is software. Asked of the browser: wgpu passes on the description alone, which is often empty.
pub async fn describe() -> Result<DeviceInfo, String> {
    let global = js_sys::global();
    let gpu = get(&get(&global, "navigator"), "gpu");
    if gpu.is_undefined() {
        return Err(if get(&global, "isSecureContext").is_falsy() {
            "WebGPU needs a page that comes over https or from this machine".to_owned()
        } else {
            "this browser has no WebGPU, or it is switched off (navigator.gpu is missing)".to_owned()
        });
    }
    let options = Object::new();
    // A plain object takes any property.
    let _ = Reflect::set(&options, &"powerPreference".into(), &"high-performance".into());
    let adapter = match get(&gpu, "requestAdapter").dyn_into::<Function>() {
        Ok(request) => match request.call1(&gpu, &options).map(JsCast::dyn_into::<Promise>) {
            Ok(Ok(promise)) => JsFuture::from(promise).await.unwrap_or(JsValue::NULL),
            _ => JsValue::NULL,
        },
        Err(_) => JsValue::NULL,
    };
    if adapter.is_falsy() {
        return Err(
            "this browser has WebGPU, but no adapter that it trusts (its GPU is blocked or has no driver)".to_owned()
        );
    }
    let info = get(&adapter, "info");
    let parts = ["vendor", "architecture", "device", "description"].map(|key| get(&info, key).as_string());
    let parts: Vec<String> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
    let name = if parts.is_empty() { "a GPU that the browser does not name".to_owned() } else { parts.join(", ") };
    let software = get(&info, "isFallbackAdapter").is_truthy() || get(&adapter, "isFallbackAdapter").is_truthy();
    Ok(DeviceInfo { webgpu: true, name, software, reason: None })
}

fn get(object: &JsValue, key: &str) -> JsValue {
    Reflect::get(object, &key.into()).unwrap_or(JsValue::UNDEFINED)
}
