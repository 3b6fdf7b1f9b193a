// read_environment against the variables that each launcher sets (copied from real runs), and
// against what people get wrong. Real launchers: launchers_test.py. Does not check that anything
// listens at MASTER_ADDR.
#include <convoy/launch/environment.h>

#include <catch2/catch.hpp>

#include <map>
#include <unistd.h>

namespace convoy::launch {
namespace {

using Catch::Contains;
using Values = std::map<std::string, std::string, std::less<>>;

Getenv from(Values values) {
  return [values = std::move(values)](std::string_view name) -> std::optional<std::string> {
    const auto found = values.find(name);
    if (found == values.end()) return std::nullopt;
    return found->second;
  };
}

Environment read(Values values) {
  auto environment = read_environment(from(std::move(values)));
  INFO(environment.status().to_string());
  REQUIRE(environment.ok());
  return environment.value();
}

std::string error_of(Values values) {
  const auto environment = read_environment(from(std::move(values)));
  REQUIRE_FALSE(environment.ok());
  REQUIRE(environment.status().code() == Code::kInvalidArgument);
  return environment.status().message();
}

TEST_CASE("a program that nobody launched is one rank") {
  const Environment e = read({});
  REQUIRE(e.launcher == Launcher::kNone);
  REQUIRE(e.rank == 0);
  REQUIRE(e.world_size == 1);
  REQUIRE(e.timeout == std::chrono::seconds(300));
}

TEST_CASE("what the ranks of a machine have in common") {
  const auto job_of = [](std::string rank, std::string local, std::string port) {
    return local_job(read({{"RANK", std::move(rank)},
                           {"WORLD_SIZE", "4"},
                           {"LOCAL_RANK", std::move(local)},
                           {"LOCAL_WORLD_SIZE", "2"},
                           {"MASTER_ADDR", "node7"},
                           {"MASTER_PORT", std::move(port)},
                           {"TORCHELASTIC_RUN_ID", "none"}}));
  };
  const std::string job = job_of("0", "0", "29500");
  REQUIRE(job_of("1", "1", "29500") == job);
  REQUIRE(job_of("2", "0", "29500") != job);  // the next machine's
  REQUIRE(job_of("0", "0", "29501") != job);  // another job's
  REQUIRE(job_of("3", "1", "29500") == job_of("2", "0", "29500"));
  const Environment alone = read({{"CONVOY_AGENT", "name"}, {"CONVOY_BIN", "/opt/convoy"}});
  REQUIRE(local_job(alone) == "process " + std::to_string(::getpid()));
  REQUIRE(alone.agent == "name");
  REQUIRE(alone.program == "/opt/convoy");
}

TEST_CASE("torchrun's variables, and convoy run's") {
  Values values{{"RANK", "5"},
                {"WORLD_SIZE", "8"},
                {"LOCAL_RANK", "1"},
                {"LOCAL_WORLD_SIZE", "4"},
                {"MASTER_ADDR", "node7"},
                {"MASTER_PORT", "29500"},
                {"TORCHELASTIC_RUN_ID", "none"}};
  const Environment e = read(values);
  REQUIRE(e.launcher == Launcher::kTorchrun);
  REQUIRE(e.rank == 5);
  REQUIRE(e.world_size == 8);
  REQUIRE(e.local_rank == 1);
  REQUIRE(e.local_world_size == 4);
  REQUIRE(e.master_addr == "node7");
  REQUIRE(e.master_port == 29500);
  REQUIRE_FALSE(e.store_is_served);

  values.insert({{"CONVOY_JOB_ID", "j1"},
                 {"CONVOY_MESH", "tp=2,dp=4"},
                 {"CONVOY_GENERATION", "3"},
                 {"CONVOY_TIMEOUT", "250ms"},
                 {"CONVOY_LOG", "debug"},
                 {"CONVOY_RUN_DIR", "/r"}});
  const Environment c = read(values);
  REQUIRE(c.launcher == Launcher::kConvoy);
  REQUIRE(c.job_id == "j1");
  REQUIRE(c.mesh == "tp=2,dp=4");
  REQUIRE(c.generation == 3);
  REQUIRE(c.timeout == std::chrono::milliseconds(250));
  REQUIRE(c.log_level == "debug");
  REQUIRE(c.run_dir == "/r");
}

TEST_CASE("torchrun's agent may serve the store, and counts restarts") {
  const Environment e = read({{"RANK", "0"},
                              {"WORLD_SIZE", "1"},
                              {"TORCHELASTIC_USE_AGENT_STORE", "True"},
                              {"TORCHELASTIC_RESTART_COUNT", "2"}});
  REQUIRE(e.store_is_served);
  REQUIRE(e.generation == 2);
}

TEST_CASE("Open MPI on one machine needs nothing else") {
  Values values{{"OMPI_COMM_WORLD_RANK", "1"},
                {"OMPI_COMM_WORLD_SIZE", "2"},
                {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
                {"PMIX_RANK", "1"},
                {"PMIX_NAMESPACE", "3541893121"}};
  const Environment first = read(values);
  REQUIRE(first.launcher == Launcher::kOpenMpi);
  REQUIRE(first.rank == 1);
  REQUIRE(first.master_addr == "127.0.0.1");
  REQUIRE(first.master_port >= 20000);
  REQUIRE(first.master_port < 32000);
  values["OMPI_COMM_WORLD_RANK"] = "0";
  values["OMPI_COMM_WORLD_LOCAL_RANK"] = "0";
  REQUIRE(read(values).master_port == first.master_port);  // all ranks derive the same

  values["OMPI_COMM_WORLD_LOCAL_SIZE"] = "1";  // two machines: nothing tells the first one's name
  REQUIRE_THAT(error_of(values), Contains("MASTER_ADDR is not set") && Contains("-x MASTER_ADDR"));
  values["MASTER_ADDR"] = "head";
  REQUIRE(read(values).master_addr == "head");
}

TEST_CASE("PMI gives a size, PMIx needs WORLD_SIZE") {
  const Environment e = read({{"PMI_RANK", "2"},
                              {"PMI_SIZE", "4"},
                              {"MPI_LOCALRANKID", "0"},
                              {"MPI_LOCALNRANKS", "2"},
                              {"MASTER_ADDR", "a"},
                              {"MASTER_PORT", "1234"}});
  REQUIRE(e.launcher == Launcher::kPmi);
  REQUIRE(e.local_rank == 0);
  REQUIRE(e.local_world_size == 2);
  REQUIRE_THAT(error_of({{"PMIX_RANK", "1"}}), Contains("WORLD_SIZE is not"));
  REQUIRE(read({{"PMIX_RANK", "1"}, {"WORLD_SIZE", "2"}, {"PMIX_NAMESPACE", "n"}}).rank == 1);
}

TEST_CASE("srun: the first host of the step serves the store, the port comes from job and step") {
  Values values{{"SLURM_PROCID", "5"},
                {"SLURM_NTASKS", "16"},  // the allocation's
                {"SLURM_STEP_NUM_TASKS", "7"},
                {"SLURM_LOCALID", "1"},
                {"SLURM_NODEID", "1"},
                {"SLURM_STEP_TASKS_PER_NODE", "4,3"},
                {"SLURM_STEP_NODELIST", "gpu[07-08]"},
                {"SLURM_JOB_ID", "4711"},
                {"SLURM_STEP_ID", "0"}};
  const Environment e = read(values);
  REQUIRE(e.launcher == Launcher::kSlurm);
  REQUIRE(e.world_size == 7);
  REQUIRE(e.local_rank == 1);
  REQUIRE(e.local_world_size == 3);
  REQUIRE(e.master_addr == "gpu07");
  REQUIRE(e.job_id == "4711");
  values["SLURM_STEP_TASKS_PER_NODE"] = "7";  // one machine: no name has to be resolved
  values["SLURM_STEP_NODELIST"] = "gpu07";
  values["SLURM_NODEID"] = "0";
  REQUIRE(read(values).master_addr == "127.0.0.1");
  values["SLURM_STEP_ID"] = "1";
  REQUIRE(read(values).master_port != e.master_port);  // two steps of one job don't meet
  values["MASTER_PORT"] = "1111";
  REQUIRE(read(values).master_port == 1111);
}

TEST_CASE("the script that sbatch runs is no task of srun") {
  REQUIRE(read({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}, {"SLURM_JOB_ID", "1"}}).world_size ==
          1);
}

TEST_CASE("the first host of node lists") {
  REQUIRE(first_host("n1") == "n1");
  REQUIRE(first_host("n1,n2") == "n1");
  REQUIRE(first_host("n[3,5-9],m") == "n3");
  REQUIRE(first_host("n[003-017]") == "n003");
  REQUIRE(first_host("rack[2-3]n[01-04].lan") == "rack2n01.lan");
  REQUIRE(first_host("a,n[1-2]") == "a");
  REQUIRE(first_host("n[1-2") == "");
  REQUIRE(first_host("") == "");
}

TEST_CASE("mistakes are named with the variable and what is allowed") {
  const Values base{{"MASTER_ADDR", "h"}, {"MASTER_PORT", "29500"}};
  const auto with = [&base](Values more) {
    more.insert(base.begin(), base.end());
    return more;
  };
  REQUIRE_THAT(error_of(with({{"RANK", "4"}, {"WORLD_SIZE", "4"}})),
               Contains("RANK is 4 but WORLD_SIZE is 4"));
  REQUIRE_THAT(error_of(with({{"RANK", "two"}, {"WORLD_SIZE", "4"}})),
               Contains("RANK is 'two'") && Contains("whole number"));
  REQUIRE_THAT(error_of(with({{"RANK", "-1"}, {"WORLD_SIZE", "4"}})), Contains("at least 0"));
  REQUIRE_THAT(error_of(with({{"RANK", "0"}})), Contains("WORLD_SIZE is not"));
  REQUIRE_THAT(error_of(with({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"LOCAL_RANK", "2"}})),
               Contains("LOCAL_RANK is 2"));
  REQUIRE_THAT(error_of({{"RANK", "0"}, {"WORLD_SIZE", "2"}}), Contains("MASTER_ADDR is not set"));
  REQUIRE_THAT(error_of({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "h"}}),
               Contains("MASTER_PORT is not set"));
  REQUIRE_THAT(
      error_of({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "h"}, {"MASTER_PORT", "0"}}),
      Contains("MASTER_PORT is '0'"));
  REQUIRE_THAT(error_of({{"CONVOY_TIMEOUT", "soon"}}), Contains("CONVOY_TIMEOUT is 'soon'"));
  REQUIRE_THAT(error_of({{"CONVOY_TIMEOUT", "0"}}), Contains("CONVOY_TIMEOUT is 0"));
  REQUIRE_THAT(error_of({{"CONVOY_GENERATION", "-1"}}), Contains("CONVOY_GENERATION"));
  REQUIRE_THAT(error_of({{"CONVOY_LOG", "loud"}}), Contains("debug, info"));
  REQUIRE_THAT(error_of({{"CONVOY_TRACE", "loud"}}), Contains("off, collectives"));
}

TEST_CASE("misspelt variables are reported with the nearest name") {
  const char* environ[] = {"PATH=/bin",      "CONVOY_MEHS=tp=2",  "CONVOY_LOG=info",
                           "CONVOY_VENV=/v", "CONVOY_QQQQQQQQ=1", nullptr};
  const auto found = unknown_variables(environ);
  REQUIRE(found.size() == 2);
  REQUIRE_THAT(found[0], Contains("CONVOY_MEHS") && Contains("did you mean CONVOY_MESH?"));
  REQUIRE_THAT(found[1], !Contains("did you mean"));
}

TEST_CASE("describe shows every variable of the contract with its own value") {
  Values values;
  const Values legal{{"RANK", "1"},
                     {"WORLD_SIZE", "3"},
                     {"LOCAL_RANK", "0"},
                     {"LOCAL_WORLD_SIZE", "2"},
                     {"MASTER_PORT", "77"},
                     {"CONVOY_GENERATION", "9"},
                     {"CONVOY_TIMEOUT", "7 s"},
                     {"CONVOY_STANDBY", "1"},
                     {"CONVOY_TRACE", "details"},
                     {"CONVOY_TRACE_BUDGET", "2%"},
                     {"CONVOY_LOG", "warn"}};
  for (const Variable& v : variables()) {
    const auto found = legal.find(v.name);
    const std::string name(v.name);
    values[name] = found == legal.end() ? "value-of-" + name : found->second;
  }
  const std::string text = describe(read(values)) + "\n";
  for (const auto& [name, value] : values)
    REQUIRE_THAT(text, Contains("\n" + name + "=" + value + "\n"));
}

}  // namespace
}  // namespace convoy::launch
