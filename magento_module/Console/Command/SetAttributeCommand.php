<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Console\Command;

use Magento\Framework\Exception\LocalizedException;
use Symfony\Component\Console\Command\Command;
use Symfony\Component\Console\Input\InputArgument;
use Symfony\Component\Console\Input\InputInterface;
use Symfony\Component\Console\Input\InputOption;
use Symfony\Component\Console\Output\OutputInterface;
use Tocsin\BreachNotification\Model\AiWrittenAttribute;
use Tocsin\BreachNotification\Model\AiWrittenAttributes;
use Tocsin\BreachNotification\Model\CheckRecord;
use Tocsin\BreachNotification\Model\SaveAiWrittenAttributes;

/**
 * tocsin:attribute:set
 */
class SetAttributeCommand extends Command
{
    private AiWrittenAttributes $attributes;
    private SaveAiWrittenAttributes $save;

    public function __construct(AiWrittenAttributes $attributes, SaveAiWrittenAttributes $save)
    {
        $this->attributes = $attributes;
        $this->save = $save;
        parent::__construct();
    }

    /**
     * @inheritDoc
     */
    protected function configure()
    {
        $this->setName('tocsin:attribute:set');
        $this->setDescription('Says which model writes an attribute; replaces what was said of it before');
        $this->addArgument('entity', InputArgument::REQUIRED, 'customer, customer_address or order');
        $this->addArgument('attribute', InputArgument::REQUIRED, 'Attribute code; of an order a column of sales_order');
        $this->addOption('model', null, InputOption::VALUE_REQUIRED, 'The model that writes it (needed)');
        $this->addOption('model-version', null, InputOption::VALUE_REQUIRED, 'Its version; without it each run names it', '');
        $this->addOption('kind', null, InputOption::VALUE_REQUIRED, implode(', ', CheckRecord::KINDS), 'inferred');
        $this->addOption(
            'sensitivity',
            null,
            InputOption::VALUE_REQUIRED,
            implode(', ', CheckRecord::SENSITIVITIES) . ' (needed)'
        );
        $this->addOption('categories', null, InputOption::VALUE_REQUIRED, 'Categories of data, with commas', '');
        $this->addOption('elements', null, InputOption::VALUE_REQUIRED, 'Data elements, with commas', '');
        parent::configure();
    }

    /**
     * @inheritDoc
     */
    protected function execute(InputInterface $input, OutputInterface $output): int
    {
        $attribute = new AiWrittenAttribute([
            'entity_type' => $input->getArgument('entity'),
            'attribute' => $input->getArgument('attribute'),
            'model_id' => $input->getOption('model'),
            'model_version' => $input->getOption('model-version'),
            'kind' => $input->getOption('kind'),
            'sensitivity' => $input->getOption('sensitivity'),
            'categories' => $input->getOption('categories'),
            'elements' => $input->getOption('elements'),
        ]);
        try {
            $this->save->execute(array_replace($this->attributes->all(), [$attribute->key() => $attribute]));
        } catch (LocalizedException $refusal) {
            $output->writeln('<error>' . $refusal->getMessage() . '</error>');
            return Command::FAILURE;
        }
        $output->writeln(sprintf(
            '%s of %s is written by %s.',
            $attribute->attribute,
            $attribute->entityType,
            $attribute->modelId . ($attribute->modelVersion === '' ? '' : ' ' . $attribute->modelVersion)
        ));
        return Command::SUCCESS;
    }
}
