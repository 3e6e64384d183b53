package memplan

import "fmt"

// fmsRows are foundation-model-stack/fms-acceleration, scripts/benchmarks/refs: a100_80gb.csv at 04702cc and
// a100_80gb_liger.csv at 12ebdb9, peak_torch_mem_alloc_in_bytes of every run on Mistral, Mixtral, Llama 2 and 3 that is
// neither GPTQ nor out of memory: A100 80GB, the Hugging Face Trainer with torch's for-each AdamW, 4096 tokens packed,
// checkpointing, LoRA of rank 16 on q,k,v,o with float32 adapters, NF4 with double quantization, FSDP on several GPUs.
// "kbit" is prepared by peft, "foak" has fused kernels with a cross-entropy that works in place, "liger" a fused one.
func fmsRows() []measuredRow {
	full := Run{Method: Full, Precision: Pure}
	lora := Run{Method: LoRA}
	qlora := Run{Precision: Autocast, Base: F16, NoKbitPrep: true}
	kbit := Run{Precision: Autocast, Base: F16}
	loss := func(r Run, l Loss) Run {
		r.Loss, r.Precision = l, Autocast
		if r.Method == Full {
			r.Precision = Mixed
		} else {
			r.Base, r.Dropout = BF16, 0.1
		}
		return r
	}
	var rows []measuredRow
	add := func(name, model string, r Run, sizes ...float64) { // sizes: GPUs, sequences, bytes
		for i := 0; i < len(sizes); i += 3 {
			r.GPUs, r.MicroBatch, r.Seq, r.Foreach, r.DropOutputs, r.Targets = int64(sizes[i]), int64(sizes[i+1]), 4096, true, true, attention
			r.Sharding, r.QuantExperts = NoSharding, model == "mixtral-8x7b" // transformers 4
			if r.GPUs > 1 {
				r.Sharding = FSDP
			}
			rows = append(rows, measuredRow{source: "G fms-acceleration", name: fmt.Sprintf("%s %s, %d GPU, %dx4096", model, name, r.GPUs, r.MicroBatch),
				model: model, run: r, measured: sizes[i+2] / gb, unit: gb, percent: 10.5})
		}
	}
	mistral, mixtral, llama := "mistral-7b-v0.1", "mixtral-8x7b", "llama-3.1-8b"
	add("full", mistral, full, 1, 4, 72971724288, 2, 2, 36762859520, 1, 8, 72972117504, 2, 4, 36763056128)
	add("LoRA", mistral, lora, 1, 4, 26108963328, 2, 2, 15123161088, 1, 8, 37098695168, 2, 4, 21433753600)
	add("LoRA", mixtral, lora, 2, 2, 57540387840, 2, 4, 64347637760)
	add("QLoRA kbit", mistral, kbit, 1, 4, 22825932800, 1, 8, 40278956032)
	add("QLoRA", mistral, qlora, 2, 2, 9974622720, 2, 4, 16587205120, 1, 4, 15860019712, 1, 8, 26849751552)
	add("QLoRA kbit", mixtral, kbit, 1, 4, 46419968512, 1, 8, 67089150464)
	add("QLoRA", mixtral, qlora, 2, 2, 21922782720, 2, 4, 29384115200, 1, 4, 36218024448, 1, 8, 47207756288)
	add("QLoRA", "llama-2-70b", qlora, 1, 4, 68159977472, 2, 2, 46524471808)
	one := full // a single GPU keeps the dtype that was loaded
	one.Loss = InPlaceLoss
	add("full foak", llama, one, 1, 4, 80318097408)
	add("full foak", llama, loss(full, InPlaceLoss), 2, 4, 80320219648, 4, 4, 47584840192, 4, 8, 68958272000)
	add("full liger", llama, loss(full, FusedLoss), 4, 4, 40168839680, 4, 8, 44061352448, 4, 16, 60306944512)
	add("LoRA foak", llama, loss(lora, InPlaceLoss), 1, 4, 37644015616, 1, 8, 59017447424, 2, 4, 31606073856, 2, 8, 52979505664,
		4, 4, 27551078912, 4, 8, 48924510720)
	add("LoRA liger", llama, loss(lora, FusedLoss), 1, 4, 24905936896, 1, 8, 33567698944, 1, 16, 50891223040, 2, 4, 23383704064,
		2, 8, 36071997952, 2, 16, 61448585728, 4, 4, 19315503616, 4, 8, 32003797504, 4, 16, 57380385280)
	add("QLoRA foak", llama, loss(qlora, InPlaceLoss), 1, 4, 27259280384, 1, 8, 48632712192, 2, 4, 26509831680, 2, 8, 47883263488,
		4, 4, 25112976896, 4, 8, 46486408704)
	add("QLoRA liger", llama, loss(qlora, FusedLoss), 1, 4, 14411297792, 1, 8, 22936744960, 1, 16, 39987639296, 1, 32, 74089427968,
		2, 4, 17850271232, 2, 8, 30402250240, 2, 16, 55506208256, 4, 4, 16453416448, 4, 8, 29005395456, 4, 16, 54109353472)
	return rows
}
