// Drives a Cloud Tasks server through Google's client: node drive.mjs grpc|rest PORT WORKER_URL
// Prints what it saw as one JSON document; the Python test says what that must be.
import {createRequire} from 'node:module';
import {CloudTasksClient} from '@google-cloud/tasks';

const [transport, port, worker] = process.argv.slice(2);
const library = createRequire(createRequire(import.meta.url).resolve('@google-cloud/tasks'));
const gax = library('google-gax');

const where = {apiEndpoint: '127.0.0.1', port: Number(port), projectId: 'p'};
const options =
  transport === 'grpc'
    ? {...where, sslCreds: gax.grpc.credentials.createInsecure()}
    : {...where, fallback: true, protocol: 'http', authClient: new gax.googleAuthLibrary.PassThroughClient()};
const client = new CloudTasksClient(options);

const location = client.locationPath('p', 'europe-west1');
const name = client.queuePath('p', 'europe-west1', `node-${transport}`);
const seen = {};

async function code(call) {
  try {
    await call();
    return 'OK';
  } catch (error) {
    // Over REST the client hands on the body of the answer as the text of its error, and nothing else.
    const told = transport === 'rest' ? JSON.parse(error.message).error : {};
    return [told.status ?? gax.Status[error.code], told.message ?? error.details];
  }
}

const [created] = await client.createQueue({parent: location, queue: {name, rateLimits: {maxConcurrentDispatches: 3}}});
seen.created = [created.name, created.state, created.rateLimits.maxConcurrentDispatches];
seen.again = await code(() => client.createQueue({parent: location, queue: {name}}));

const [paused] = await client.pauseQueue({name});
seen.paused = paused.state;
const [updated] = await client.updateQueue({
  queue: {name, retryConfig: {maxAttempts: 7}, rateLimits: {maxConcurrentDispatches: 99}},
  updateMask: {paths: ['retry_config.max_attempts']},
});
seen.updated = [updated.retryConfig.maxAttempts, updated.rateLimits.maxConcurrentDispatches];
seen.queues = (await client.listQueues({parent: location}))[0].map(queue => queue.name);

const body = Buffer.from('{"report": 7}');
const [task] = await client.createTask({
  parent: name,
  task: {
    name: `${name}/tasks/first`,
    httpRequest: {url: `${worker}/node`, httpMethod: 'PUT', headers: {'Content-Type': 'application/json'}, body},
    dispatchDeadline: {seconds: 30},
  },
  responseView: 'FULL',
});
seen.task = [task.name, Buffer.from(task.httpRequest.body).toString(), Number(task.dispatchDeadline.seconds)];
await client.createTask({parent: name, task: {name: `${name}/tasks/second`, httpRequest: {url: worker}}});
await client.createTask({parent: name, task: {name: `${name}/tasks/third`, appEngineHttpRequest: {relativeUri: '/x'}}});
seen.taken = await code(() => client.createTask({parent: name, task: {name: task.name, httpRequest: {url: worker}}}));
seen.badId = await code(() =>
  client.createTask({parent: name, task: {name: `${name}/tasks/not a valid id`, httpRequest: {url: worker}}}),
);

const [basic] = await client.getTask({name: task.name});
seen.basic = basic.httpRequest.body.length;
const tasks = [];
const paged = {parent: name, pageSize: 2, responseView: 'FULL'};
for await (const one of client.listTasksAsync(paged, {autoPaginate: false})) tasks.push(one.name);
seen.tasks = tasks.sort();

await client.deleteTask({name: `${name}/tasks/second`});
seen.deleted = await code(() => client.getTask({name: `${name}/tasks/second`}));
await client.runTask({name: task.name});
await client.purgeQueue({name});
const [resumed] = await client.resumeQueue({name});
seen.resumed = resumed.state;
seen.policy = await code(() => client.getIamPolicy({resource: name}));
await client.deleteQueue({name});
seen.gone = await code(() => client.getQueue({name}));

console.log(JSON.stringify(seen));
process.exit(0);
