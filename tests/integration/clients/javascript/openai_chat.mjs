// Chats, streams, tools, completions, a response and errors by OpenAI's package for JavaScript.
// Usage: node openai_chat.mjs URL MODEL FOLDER; FOLDER has node_modules. Prints JSON.
import { createRequire } from "node:module";

const [url, model, folder] = process.argv.slice(2);
const { OpenAI } = createRequire(`${folder}/index.js`)("openai");
const client = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: 0 });
const question = "What is the capital of France?";
const asked = {
  model,
  messages: [{ role: "user", content: question }],
  temperature: 0,
  max_tokens: 16,
};
const found = {};

const whole = await client.chat.completions.create(asked);
found.text = whole.choices[0].message.content;
found.usage = whole.usage.total_tokens;

found.stream = "";
const stream = await client.chat.completions.create({
  ...asked,
  stream: true,
  stream_options: { include_usage: true },
});
for await (const part of stream) {
  found.stream += part.choices[0]?.delta.content ?? "";
  found.streamUsage = part.usage?.total_tokens;
}

const parameters = {
  type: "object",
  properties: { city: { type: "string", maxLength: 20 } },
  required: ["city"],
};
const tools = [{ type: "function", function: { name: "weather", parameters } }];
const calling = { ...asked, tools, tool_choice: "required", max_tokens: 64 };
const call = (await client.chat.completions.create(calling)).choices[0].message.tool_calls[0];
found.call = [call.function.name, Object.keys(JSON.parse(call.function.arguments))];
const runner = client.chat.completions.stream(calling);
const streamed = (await runner.finalChatCompletion()).choices[0].message.tool_calls[0];
found.streamedCall = streamed.function;
found.wholeCall = call.function;

const completion = await client.completions.create({
  model,
  prompt: "The capital of France is",
  temperature: 0,
  max_tokens: 4,
  stream: true,
});
found.completion = 0;
for await (const part of completion) found.completion += part.choices[0].text.length;

const response = await client.responses.create({
  model,
  input: question,
  temperature: 0,
  max_output_tokens: 16,
});
found.response = response.output_text;

found.models = (await client.models.list()).data.map((entry) => entry.id);
found.errors = [];
for (const wrong of [{ model: "other" }, { temperature: -1 }, { messages: [] }]) {
  try {
    await client.chat.completions.create({ ...asked, ...wrong });
  } catch (error) {
    found.errors.push([error.constructor.name, error.status, error.code, error.param]);
  }
}
console.log(JSON.stringify(found));
