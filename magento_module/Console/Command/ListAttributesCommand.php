<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Console\Command;

use Symfony\Component\Console\Command\Command;
use Symfony\Component\Console\Helper\Table;
use Symfony\Component\Console\Input\InputInterface;
use Symfony\Component\Console\Input\InputOption;
use Symfony\Component\Console\Output\OutputInterface;
use Tocsin\BreachNotification\Model\AiWrittenAttributes;

/**
 * tocsin:attribute:list
 */
class ListAttributesCommand extends Command
{
    private AiWrittenAttributes $attributes;

    public function __construct(AiWrittenAttributes $attributes)
    {
        $this->attributes = $attributes;
        parent::__construct();
    }

    /**
     * @inheritDoc
     */
    protected function configure()
    {
        $this->setName('tocsin:attribute:list');
        $this->setDescription('Shows which attributes are configured as written by a model');
        $this->addOption('json', null, InputOption::VALUE_NONE, 'Print JSON');
        parent::configure();
    }

    /**
     * @inheritDoc
     */
    protected function execute(InputInterface $input, OutputInterface $output): int
    {
        $rows = array_map(static fn ($attribute) => $attribute->row(), array_values($this->attributes->all()));
        if ($input->getOption('json')) {
            $output->writeln((string)json_encode($rows, JSON_PRETTY_PRINT | JSON_UNESCAPED_SLASHES));
            return Command::SUCCESS;
        }
        if ($rows === []) {
            $output->writeln('No attribute is configured as AI-written. Add one with tocsin:attribute:set.');
            return Command::SUCCESS;
        }
        (new Table($output))->setHeaders(array_keys($rows[0]))->setRows($rows)->render();
        return Command::SUCCESS;
    }
}
